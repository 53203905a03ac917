//! Tests of parsing configurations.

use super::*;

const GLOBAL_KEYS: &str = "[global]\nverbosity: Nothing\nlog_file: Just \"l\"\nbuild_dir_root = Nothing\n\
    keep_temp_dirs: on\nUNIQUE_build_dirs: False\nrepository: Nothing\nrepository_cache: Just (Path \"/c\")\n";

/// Rows 133 and 134.
#[test]
fn the_new_file_can_be_read() {
    let config = read_config(NEW_FILE).unwrap();
    assert_eq!(config.verbosity, Some(LogLevel::Info));
    assert_eq!(config.repository_cache, Some(CachePath::InHome(".b9/repo-cache".into())));
    assert_eq!((config.keep_temp_dirs, config.unique_build_dirs), (false, true));
    assert_eq!((config.max_cached_shared_images, config.timeout_factor), (Some(2), 1));
    assert_eq!(config.default_timeout_seconds, Some(3600));
    assert_eq!((config.max_lifetime_seconds, config.guest_ram_mib), (Some(14400), Some(1024)));
    assert_eq!(config.ext4_attributes, Some(Vec::new()));
    assert_eq!(config.engines.len(), 4);
    assert!(config.repositories.is_empty());
}

#[test]
fn keys_have_no_case_and_comments_no_meaning() {
    let config = read_config(&format!(
        "# a\n; b\n\n{GLOBAL_KEYS}ext4_attributes: [\"64bit\",\n   \"^x\"]\n"
    ))
    .unwrap();
    assert_eq!(config.log_file.as_deref(), Some("l"));
    assert_eq!((config.keep_temp_dirs, config.unique_build_dirs), (true, false));
    assert_eq!(config.ext4_attributes.unwrap(), ["64bit", "^x"]);
    assert_eq!(config.repository_cache, Some(CachePath::Path("/c".into())));
    assert_eq!(config.max_cached_shared_images, None);
    let defaults = "[DEFAULT]\nmax_cached_shared_images: Just 7\n";
    let config = read_config(&format!("{defaults}{GLOBAL_KEYS}")).unwrap();
    assert_eq!(config.max_cached_shared_images, Some(7));
}

/// Rows 136, 137, 142.
#[test]
fn what_is_wrong_is_named() {
    let wrong = |text: &str| read_config(text).unwrap_err().to_string();
    assert_eq!(
        wrong(&GLOBAL_KEYS.replace("repository: Nothing\n", "")),
        "section `global` lacks the key `repository`"
    );
    for (old, new, part) in [
        (
            "verbosity: Nothing",
            "verbosity: LogInfo",
            "`verbosity` in section `global`: cannot understand `LogInfo`",
        ),
        ("repository: Nothing", "repository: tilia", "cannot understand `tilia`"),
        ("keep_temp_dirs: on", "keep_temp_dirs: maybe", "neither True nor False"),
        ("[global]", "[global]\nmax_cached_shared_images: Just 0", "1 or more"),
        ("[global]", "[global]\ndefault_timeout_seconds: Just 5", "found `Just`"),
        ("[global]", "[global]\next4_attributes: 64bit", "cannot understand `64bit`"),
        ("[global]", "[global]\nno value", "line 2: `no value` is neither"),
        ("[global]", "[x-repo]\nremote_path: p\n[global]", "section `x-repo` lacks the key"),
    ] {
        let message = wrong(&GLOBAL_KEYS.replacen(old, new, 1));
        assert!(message.contains(part), "{part}: {message}");
    }
}

/// Row 153.
#[test]
fn a_repository_is_added_or_replaced() {
    let repository = Repository {
        id: "main".into(),
        remote_path: "/srv/it's \"here\"".into(),
        ssh_priv_key_file: "/k".into(),
        ssh_remote_host: "h".into(),
        ssh_remote_port: 22,
        ssh_remote_user: "u".into(),
    };
    let text = format!("# mine\n{GLOBAL_KEYS}# end\n");
    let added = with_repository(&text, &repository);
    assert!(added.starts_with(&text), "{added}");
    assert_eq!(read_config(&added).unwrap().repositories, std::slice::from_ref(&repository));
    let other = Repository { ssh_remote_port: 2222, ..repository };
    let more = format!("{added}# next\n[last]\na: b\n");
    let replaced = with_repository(&more, &other);
    assert_eq!(read_config(&replaced).unwrap().repositories, [other]);
    assert_eq!(replaced, more.replace("ssh_remote_port: 22\n", "ssh_remote_port: 2222\n"));
}
