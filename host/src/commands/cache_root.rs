//! Prepares vbuild's own cache directory. It contains kernels and agents that guests run, disks
//! with password files, and logs, so it must be private to the user before its content is trusted
//! and before anything is written to it.

use rooted::Error;

use super::{
    appliance::ApplianceVerb, b9::B9Verb, command_line::Invocation, layers::LayersVerb,
    recipe::OtherRecipe, store::StoreVerb, verb::Verb,
};
use crate::{
    build::options,
    cli::{BuilderArgs, CacheDirArgs},
    error::{CommandError, Kind},
};

/// Returns the cache directory options of a command line, if the directory must be prepared for it.
/// `vbuild doctor` only inspects the directory, and continues even if it is not private.
pub(crate) fn args_of(invocation: &Invocation) -> Option<&CacheDirArgs> {
    match invocation {
        Invocation::Build(args) => Some(&args.builder.guest.cache_dir),
        Invocation::Capabilities(_) | Invocation::Print(_) => None,
        Invocation::Verb(verb) => match verb.as_ref() {
            Verb::Vmdb(args) => Some(&args.builder.guest.cache_dir),
            Verb::Layers(args) => match &args.verb {
                None => Some(&args.build.builder.guest.cache_dir),
                Some(LayersVerb::CompareLayers(args)) => Some(&args.cache_dir),
                Some(LayersVerb::NewLayer(_) | LayersVerb::TestBoot(_)) => None,
            },
            Verb::B9(args) => match &args.verb {
                B9Verb::Build(args) => Some(&args.guest.cache_dir),
                B9Verb::Run(args) => Some(&args.guest.cache_dir),
                B9Verb::Push(_)
                | B9Verb::Pull(_)
                | B9Verb::List
                | B9Verb::CleanLocal
                | B9Verb::CleanRemote
                | B9Verb::AddRepo(_)
                | B9Verb::Reformat(_)
                | B9Verb::Version => None,
            },
            Verb::Images(args) => Some(&args.builder.guest.cache_dir),
            Verb::Plan(args) => Some(of_recipe(args.recipe.as_ref(), &args.build.builder)),
            Verb::Shell(args) => Some(of_recipe(args.recipe.as_ref(), &args.build.builder)),
            Verb::Explain(args) => Some(&args.built.cache_dir),
            Verb::Du(args) => Some(&args.built.cache_dir),
            Verb::Store(command) => Some(match &command.verb {
                StoreVerb::Ls(args) => &args.cache_dir,
                StoreVerb::Du(args) => &args.cache_dir,
                StoreVerb::Verify(args) => &args.cache_dir,
                StoreVerb::Gc(args) => &args.cache_dir,
            }),
            Verb::Exec(args) => Some(&args.guest.cache_dir),
            Verb::Appliance(command) => Some(match &command.verb {
                ApplianceVerb::Build(args) => &args.cache_dir,
                ApplianceVerb::Info(args) => &args.cache_dir,
                ApplianceVerb::List(args) => &args.cache_dir,
                ApplianceVerb::Gc(args) => &args.cache_dir,
            }),
            Verb::Boot(_) | Verb::Doctor(_) | Verb::Cache(_) | Verb::Completions(_) => None,
        },
    }
}

fn of_recipe<'a>(other: Option<&'a OtherRecipe>, elements: &'a BuilderArgs) -> &'a CacheDirArgs {
    match other {
        None => &elements.guest.cache_dir,
        Some(OtherRecipe::Vmdb(args)) => &args.builder.guest.cache_dir,
        Some(OtherRecipe::Layers(args)) => &args.builder.guest.cache_dir,
        Some(OtherRecipe::B9(args)) => &args.build.guest.cache_dir,
    }
}

/// Creates the cache directory, or removes other users' permissions from an existing one.
///
/// A directory that the command line names is used even if it is not private; the problem is
/// returned as the text of a warning. A directory that cannot be created is not an error here: the
/// code that needs it reports that.
///
/// # Errors
/// Fails if the default directory belongs to another user, or if others could have written to it.
pub(crate) fn prepare(args: &CacheDirArgs) -> Result<Option<String>, CommandError> {
    let path = options::cache_dir(args);
    let error = match rooted::private(&path) {
        Ok(_) => return Ok(None),
        Err(error) if !error.is_distrust() => return Ok(None),
        Err(error) => error,
    };
    if args.cache_dir.is_some() {
        return Ok(Some(format!(
            "the cache folder `{}` is not this user's alone: {error}{}",
            path.display(),
            cause(&error)
        )));
    }
    let hint = error.hint();
    Err(CommandError::new(Kind::Host, error)
        .context(format!("cannot trust the cache folder `{}`", path.display()))
        .maybe_hint(hint)
        .hint("name another folder: --cache-dir DIR, or XDG_CACHE_HOME"))
}

fn cause(error: &Error) -> String {
    std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    fn named(path: &Path) -> CacheDirArgs {
        CacheDirArgs { cache_dir: Some(path.to_owned()) }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_folder_becomes_the_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("a/cache");
        assert_eq!(prepare(&named(&cache)).unwrap(), None);
        assert_eq!(mode(&cache), 0o700);
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(prepare(&named(&cache)).unwrap(), None);
        assert_eq!(mode(&cache), 0o700);
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
        let warning = prepare(&named(&cache)).unwrap().unwrap();
        assert!(warning.contains("can be written by other users"), "{warning}");
        // What cannot be made is no matter of trust.
        assert_eq!(prepare(&named(Path::new("/proc/nothing"))).unwrap(), None);
    }
}
