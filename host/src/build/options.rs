//! Converts command-line options to the settings that all verbs with a machine share. The functions
//! are pure, except that [`Settings::default`] takes the defaults from the host.

use std::{path::PathBuf, time::Duration};

use engine::cache::{Refresh, Rules};

use crate::{
    cli::{
        AccelArgs, BuildArgs, BuilderArgs, CaBundle, CacheDirArgs, GuestArgs, OnFailureArg,
        PackageArgs, ReachArgs, ReuseArgs, SourceArgs,
    },
    settings::{CaSource, Settings, StageCache},
};

/// The guest's kernel logs to the console at this `--debug` level and above.
const DEBUG_CONSOLE: u32 = 2;

/// Returns the settings of a build.
pub(crate) fn build_settings(args: &BuildArgs) -> Settings {
    Settings {
        script_timeout: args.scripts.timeout.map(|seconds| Duration::from_secs(seconds.into())),
        verbose_console: args.output.view.debug >= DEBUG_CONSOLE,
        keep_failed: args.image.no_delete_on_failure,
        ..builder_settings(&args.builder)
    }
}

/// Returns the settings of any verb that makes images: those of its guest, and the use of results
/// of earlier builds.
pub(crate) fn builder_settings(args: &BuilderArgs) -> Settings {
    let settings = Settings { keep_sync: args.keep_sync, ..guest_settings(&args.guest) };
    with_reuse(settings, &args.reuse)
}

/// Sets how results of earlier builds are used.
pub(crate) fn with_reuse(settings: Settings, reuse: &ReuseArgs) -> Settings {
    let refresh = match reuse.refresh.as_deref() {
        None => Refresh::Nothing,
        Some("") => Refresh::Everything,
        Some(stage) => Refresh::From(stage.to_owned()),
    };
    Settings {
        stage_cache: StageCache {
            enabled: !reuse.no_cache,
            rules: Rules { max_age: reuse.max_age(), refresh, ..Rules::default() },
        },
        remote_cache: reuse.remote_cache.clone(),
        remote_key: reuse.remote_key.clone(),
        remote_unsigned: reuse.remote_unsigned,
        shell_on_failure: reuse.on_failure == Some(OnFailureArg::Shell),
        ..settings
    }
}

/// Returns the settings of any verb that runs something in a machine.
pub(crate) fn guest_settings(args: &GuestArgs) -> Settings {
    let GuestArgs { drive, cache_dir, machine, network } = args;
    let appliance =
        appliance_settings(&machine.accel, &machine.packages, &network.source, cache_dir);
    Settings {
        vcpus: machine.processors.smp.unwrap_or(appliance.vcpus),
        memory_mib: machine.memory.memsize.unwrap_or(appliance.memory_mib),
        network: !network.no_network,
        drive: drive.drive.clone(),
        drive_format: drive.drive_format,
        cold: machine.cold,
        ..with_reach(appliance, &network.reach)
    }
}

/// Sets which hosts scripts may reach.
pub(crate) fn with_reach(settings: Settings, reach: &ReachArgs) -> Settings {
    Settings {
        allow_hosts: reach.allow_host.clone(),
        allow_private: reach.allow_private,
        proxy_resolves: reach.proxy_resolves,
        ..settings
    }
}

/// Returns the settings that determine the appliance and how it is built: packages, mirror,
/// certificates, accelerator and cache directory.
pub(crate) fn appliance_settings(
    accel: &AccelArgs,
    packages: &PackageArgs,
    source: &SourceArgs,
    cache: &CacheDirArgs,
) -> Settings {
    Settings {
        accel: accel.accel,
        require_confinement: accel.require_confinement,
        appliance_packages: packages.appliance_package.clone(),
        mirror: source.mirror.clone(),
        ca_bundle: source.ca_bundle.as_ref().map(|bundle| match bundle {
            CaBundle::Host => CaSource::Host,
            CaBundle::File(path) => CaSource::File(path.clone()),
        }),
        cache_dir: cache_dir(cache),
        ..Settings::default()
    }
}

/// Returns vbuild's cache directory as an absolute path: overlays refer to files in it by path, and
/// a base image is built in another working directory.
pub(crate) fn cache_dir(args: &CacheDirArgs) -> PathBuf {
    let said = args.cache_dir.clone().unwrap_or_else(crate::settings::default_cache_dir);
    std::path::absolute(&said).unwrap_or(said)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use machine::{DriveFormat, accel::Accel};

    use super::*;
    use crate::commands::command_line::{self, Invocation};

    fn settings(line: &str) -> Settings {
        let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        match command_line::parse_argv(&argv).unwrap().1 {
            Invocation::Build(args) => build_settings(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        assert_eq!(settings("vbuild deb"), Settings::default());
    }

    #[test]
    fn a_cache_directory_is_meant_from_where_it_is_typed() {
        let said = CacheDirArgs { cache_dir: Some("some/where".into()) };
        assert_eq!(cache_dir(&said), std::env::current_dir().unwrap().join("some/where"));
    }

    #[test]
    fn every_option_arrives() {
        let line = "vbuild --accel tcg --smp 3 -m 512 --appliance-package a --appliance-package b \
                    --cache-dir /c --mirror http://m/d --ca-bundle host --no-network \
                    --allow-host h:1 --allow-private --proxy-resolves --drive d.img --drive-format qcow2 \
                    --timeout 9 --debug 2 --no-delete-on-failure --refresh=copy --max-age 12h \
                    --require-confinement --keep-sync --cold --on-failure shell --remote-cache /shared --remote-key /secret deb";
        let expected = Settings {
            accel: Accel::Tcg,
            require_confinement: true,
            vcpus: 3,
            memory_mib: 512,
            appliance_packages: vec!["a".into(), "b".into()],
            cache_dir: "/c".into(),
            mirror: Some("http://m/d".into()),
            ca_bundle: Some(CaSource::Host),
            network: false,
            allow_hosts: vec!["h:1".into()],
            allow_private: true,
            proxy_resolves: true,
            drive: Some("d.img".into()),
            drive_format: Some(DriveFormat::Qcow2),
            script_timeout: Some(Duration::from_secs(9)),
            keep_sync: true,
            cold: true,
            verbose_console: true,
            keep_failed: true,
            stage_cache: StageCache {
                enabled: true,
                rules: Rules {
                    max_age: Some(Duration::from_secs(12 * 3600)),
                    refresh: Refresh::From("copy".into()),
                    ..Rules::default()
                },
            },
            remote_cache: Some(remote::Place::Folder("/shared".into())),
            remote_key: Some("/secret".into()),
            shell_on_failure: true,
            ..Settings::default()
        };
        assert_eq!(settings(line), expected);
    }

    #[test]
    fn unsigned_results_are_trusted_by_an_option_of_their_own() {
        let unsigned = settings("vbuild --remote-cache /shared --remote-unsigned deb");
        assert!(unsigned.remote_unsigned && unsigned.remote_key.is_none());
        let line = "vbuild --remote-cache /shared --remote-unsigned --remote-key /k deb";
        let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        assert!(command_line::parse_argv(&argv).is_err());
    }

    #[test]
    fn what_is_used_again() {
        let rules = |line: &str| settings(line).stage_cache.rules;
        assert_eq!(rules("vbuild --refresh deb").refresh, Refresh::Everything);
        assert_eq!(rules("vbuild --max-age never deb").max_age, None);
        assert_eq!(rules("vbuild --max-age 0 deb").max_age, Some(Duration::ZERO));
        assert!(!settings("vbuild --no-cache deb").stage_cache.enabled);
    }

    #[test]
    fn the_last_word_about_the_network_counts() {
        assert!(settings("vbuild --no-network --network deb").network);
        assert!(!settings("vbuild --network --no-network deb").network);
    }
}
