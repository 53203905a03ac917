//! The caller's environment under the names `disk-image-create` and `ramdisk-image-create`: which
//! variables are passed to scripts, which are settings, and what is reported about the others.
//!
//! diskimage-builder passes the whole environment to scripts. vbuild keeps secrets of the caller
//! out of images: it passes only the variables that diskimage-builder and its elements document,
//! and warns about others that elements of the build use.

use dib::Lowered;

use super::context::ProcessContext;
use crate::{cli::BuildArgs, run_context::RunContext};

/// Variables other than `DIB_*` that diskimage-builder 3.43 or its elements document.
const DOCUMENTED: &[&str] = &[
    "ACI_MANIFEST",
    "ARCH",
    "BASE_IMAGE_FILE",
    "BASE_IMAGE_TAG",
    "DISTRO_NAME",
    "EFI_BOOT_DIR",
    "FS_TYPE",
    "HW_DISCOVERY_URL",
    "INIT_SYSTEM",
    "MAX_ONLINE_RESIZE",
    "NO_SOURCE_REPOSITORIES",
    "PIP_DOWNLOAD_CACHE",
    "PYTHON_TARGETS",
    "ROOT_LABEL",
    "UBOOT_KERNEL_ADDR",
    "UBOOT_KERNEL_EP",
    "YUM",
    "break",
    "break_cmd",
];

/// The prefixes of documented variables.
const DOCUMENTED_PREFIXES: &[&str] = &["DIB_", "GENTOO_", "REG_"];

/// Variables that shells, programs and vbuild itself use. A script that uses one of them does not
/// mean the caller's value, so there is no warning about it.
const USUAL: &[&str] = &[
    "COLUMNS",
    "DISPLAY",
    "EDITOR",
    "ELEMENTS_PATH",
    "HOME",
    "HOSTNAME",
    "IMAGE_NAME",
    "LANG",
    "LINES",
    "LOGNAME",
    "MAIL",
    "OLDPWD",
    "OVERWRITE_OLD_IMAGE",
    "PATH",
    "PS1",
    "PS4",
    "PWD",
    "QEMU_IMG_OPTIONS",
    "RAMDISK_ELEMENT",
    "SHELL",
    "SHLVL",
    "SKIP_BASE",
    "TERM",
    "TMPDIR",
    "USER",
    "VIRTUAL_ENV",
    "_",
];

/// Variables that name the proxies of programs.
const PROXIES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "all_proxy",
];

/// Whether the build reads the caller's environment at all.
fn counts(context: &ProcessContext, args: &BuildArgs) -> bool {
    context.personality.reads_dib_environment() && !args.scripts.clear_environment
}

/// Returns the caller's variables that are passed to scripts.
pub(super) fn passed(context: &ProcessContext, args: &BuildArgs) -> Vec<(String, String)> {
    if !counts(context, args) {
        return Vec::new();
    }
    let documented = |name: &str| {
        DOCUMENTED.contains(&name)
            || DOCUMENTED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    let variables = context.environment.iter().filter_map(|(name, value)| {
        let name = name.to_str().filter(|name| documented(name))?;
        Some((name.to_owned(), value.to_str()?.to_owned()))
    });
    variables.collect()
}

/// Returns the value of a variable that diskimage-builder itself reads. `None` if the variable is
/// empty or unset, or if the build does not read the environment.
pub(super) fn setting<'a>(
    context: &'a ProcessContext,
    args: &BuildArgs,
    name: &str,
) -> Option<&'a str> {
    let value = context.variable(name).filter(|value| !value.is_empty());
    value.filter(|_| counts(context, args))
}

/// Whether a variable that diskimage-builder itself reads is set to a value other than `0`.
pub(super) fn flag(context: &ProcessContext, args: &BuildArgs, name: &str) -> bool {
    setting(context, args, name).is_some_and(|value| value != "0")
}

/// Whether `DIB_QUIET` silences the terminal.
pub(super) fn is_quiet(context: &ProcessContext, args: &BuildArgs) -> bool {
    flag(context, args, "DIB_QUIET")
}

/// Reports in one line which documented variables other than `DIB_*` are passed, and which proxy
/// variables are not.
pub(super) fn tell(context: &ProcessContext, args: &BuildArgs, ctx: &RunContext) {
    if !counts(context, args) {
        return;
    }
    let passed = passed(context, args);
    let names = passed.iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = names.filter(|name| !name.starts_with("DIB_")).collect();
    let set = |name: &&&str| context.variable(name).is_some_and(|value| !value.is_empty());
    let proxies: Vec<&str> = PROXIES.iter().filter(set).copied().collect();
    let mut parts = Vec::new();
    if !names.is_empty() {
        parts.push(format!("passed to scripts: {}", names.join(" ")));
    }
    if !proxies.is_empty() {
        parts.push(format!(
            "not passed: {}, as vbuild itself goes through the proxy for scripts",
            proxies.join(" ")
        ));
    }
    if !parts.is_empty() {
        ctx.say(format!("Variables of the environment {}", parts.join("; ")));
    }
}

/// Returns a warning about variables that are set in the environment and used by files of the
/// elements, but not passed.
pub(super) fn unpassed(
    context: &ProcessContext,
    args: &BuildArgs,
    lowered: &Lowered,
) -> Option<String> {
    if !counts(context, args) {
        return None;
    }
    let mine = |name: &str| {
        USUAL.contains(&name)
            || PROXIES.contains(&name)
            || name.starts_with("LC_")
            || lowered.variables.iter().any(|passed| passed == name)
    };
    let names: Vec<&str> = context
        .environment
        .keys()
        .filter_map(|name| name.to_str())
        .filter(|name| lowered.mentioned.contains(*name) && !mine(name))
        .collect();
    let first = names.first()?;
    Some(format!(
        "scripts of these elements use variables that are set here and not passed: {}; `--envvar {first}` \
         passes one",
        names.join(" ")
    ))
}
