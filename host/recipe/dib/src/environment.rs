//! The environment of every phase, as typed data: it never passes through shell quoting.
//!
//! The build's own variables override the user's, as in virt-dib. diskimage-builder's shell
//! functions are exported as bash does it, in variables named `BASH_FUNC_name%%`.

use std::{collections::BTreeSet, fmt::Write as _};

use plan::{Env, Value};

use crate::{
    block_device::Symbols, elements::Element, guest, options::DibOptions, phase::Phase,
    settings::Settings,
};

/// The fact that holds the image size in KiB.
pub(crate) const SIZE_FACT: &str = "image-size-kib";
/// The fact that names the image's block device, set when the layout is created.
const DEVICE_FACT: &str = "image-block-device";
const DEVICES_FACT: &str = "image-block-devices";

/// PATH of scripts outside. The elements' own `bin` directories come last, so they add programs and
/// hide none.
const PATH_OUTSIDE: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/build/hooks/bin";
/// PATH of scripts inside.
const PATH_INSIDE: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/tmp/in_target.d/bin";

/// Variables that control the output format. If every phase had them, each format would need its
/// own build, so before cleanup.d only elements that mention one get it.
pub(crate) const OUTPUT_VARIABLES: [&str; 3] = ["IMAGE_TYPE", "DIB_CHECKSUM", "DOCKER_TARGET"];

/// Variables with paths outside, which the original unsets when it enters the image.
const NOT_INSIDE: [&str; 2] = ["TMPDIR", "VIRTUAL_ENV"];

/// Body of the shell function `die`: prints a message and exits with the status of the previous
/// command.
const DIE: &str = "() { local status=$?; set +x; echo \"$@\"; exit \"$status\"; }";

/// The inputs of all environments.
#[derive(Debug)]
pub(crate) struct Environment<'a> {
    pub(crate) options: &'a DibOptions,
    pub(crate) settings: &'a Settings,
    pub(crate) elements: &'a [Element],
    pub(crate) symbols: &'a Symbols,
    /// The image name without directories.
    pub(crate) image_name: &'a str,
    /// The image size in KiB, if already known.
    pub(crate) size_kib: Option<u64>,
    /// UUID of the root filesystem.
    pub(crate) root_uuid: &'a str,
    /// Number of search path directories.
    pub(crate) search_paths: usize,
    /// The [`OUTPUT_VARIABLES`] that files of elements mention.
    pub(crate) named: &'a BTreeSet<&'static str>,
}

/// A list of variables in which a later assignment replaces an earlier one.
#[derive(Debug, Default)]
struct Variables(Env);

impl Variables {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }
}

impl Environment<'_> {
    /// The environment of a phase's scripts.
    pub(crate) fn of(&self, phase: Phase) -> Env {
        let mut env = self.common();
        if phase.is_inside() {
            env.0.retain(|(name, _)| !NOT_INSIDE.contains(&name.as_str()));
        }
        env.set("HOME", if phase.is_inside() { "/root" } else { guest::HOME });
        env.set("PATH", if phase.is_inside() { PATH_INSIDE } else { PATH_OUTSIDE });
        if matches!(phase, Phase::Root | Phase::Cleanup) {
            env.set("TARGET_ROOT", guest::MNT);
        }
        let last = phase == Phase::Cleanup;
        let words = if last { &self.options.command_line } else { &self.options.content_line };
        env.set("DIB_ARGS", arguments(words));
        for (name, value) in self.of_outputs() {
            if last || self.named.contains(name) {
                env.set(name, value);
            }
        }
        if phase >= Phase::BlockDevice {
            let size = self.size_kib.map_or_else(
                || Value::Fact(SIZE_FACT.to_owned()),
                |kib| Value::Text(kib.to_string()),
            );
            env.set("DIB_IMAGE_SIZE", size);
        }
        if phase >= Phase::PreFinalise {
            env.set("IMAGE_BLOCK_DEVICE", Value::Fact(DEVICE_FACT.to_owned()));
            env.set("IMAGE_BLOCK_DEVICES", Value::Fact(DEVICES_FACT.to_owned()));
        }
        env.0
    }

    /// The environment of vbuild's own helper scripts, which run outside.
    pub(crate) fn of_helpers() -> Env {
        vec![("LC_ALL".into(), "C".into()), ("PATH".into(), PATH_OUTSIDE.into())]
    }

    fn common(&self) -> Variables {
        let mut env = Variables::default();
        for (name, value) in &self.settings.variables {
            env.set(name, value.as_str());
        }
        for (name, value) in [
            ("LC_ALL", "C"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("SHELL", "/bin/bash"),
            // Python's sets are otherwise in random order on every run, and elements turn them into
            // package lists.
            ("PYTHONHASHSEED", "0"),
            // Otherwise the output of package-installs arrives only when it ends, minutes later.
            ("PYTHONUNBUFFERED", "1"),
        ] {
            env.set(name, value);
        }
        if let Some(epoch) = self.options.source_date_epoch {
            // Programs that honour the variable write no later time into files.
            env.set("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        self.add_places(&mut env);
        self.add_settings(&mut env);
        self.add_elements(&mut env);
        env
    }

    fn add_places(&self, env: &mut Variables) {
        for (name, value) in [
            ("_LIB", guest::LIB),
            ("TMP_BUILD_DIR", guest::BUILD),
            ("TMP_IMAGE_DIR", guest::IMAGE_DIR),
            ("TMP_HOOKS_PATH", guest::HOOKS),
            ("TMP_MOUNT_PATH", guest::MNT),
            ("DIB_LOCKFILES", guest::LOCKFILES),
        ] {
            env.set(name, value);
        }
        env.set("DIB_IMAGE_CACHE", self.image_cache());
        env.set("DIB_MANIFEST_SAVE_DIR", self.save_directory());
        env.set("DIB_BLOCK_DEVICE_PARAMS_YAML", format!("{}/params.yaml", guest::BLOCK_DEVICE));
        let python = self.options.python.as_deref().unwrap_or("/usr/bin/python3");
        env.set("DIB_PYTHON_EXEC", python);
    }

    /// The directory for downloads of elements, on the helper drive.
    pub(crate) fn image_cache(&self) -> String {
        match &self.options.image_cache {
            Some(directory) => format!("{}/{}", guest::HELPER, directory.trim_matches('/')),
            None => guest::IMAGE_CACHE.to_owned(),
        }
    }

    /// The directory for files that go to the host; scripts outside run in it.
    pub(crate) fn save_directory(&self) -> String {
        format!("{}/{}.d", guest::OUT, self.image_name)
    }

    fn add_settings(&self, env: &mut Variables) {
        let settings = self.settings;
        env.set("ARCH", settings.arch.as_str());
        env.set("FS_TYPE", settings.fs_type.as_str());
        env.set("IMAGE_NAME", self.image_name);
        env.set("DIB_OFFLINE", if settings.offline { "1" } else { "" });
        env.set("DIB_DEBUG_TRACE", settings.debug_trace.to_string());
        env.set("DIB_NO_TMPFS", "1");
        env.set("DIB_ROOT_LABEL", self.symbols.root_label.as_str());
        env.set("DIB_ROOT_FSTYPE", self.symbols.root_fstype.as_str());
        env.set("DIB_BOOT_LABEL", self.symbols.boot_label.as_str());
        env.set("DIB_MOUNTPOINTS", self.symbols.mount_points.join("|"));
        env.set("DIB_IMAGE_ROOT_FS_UUID", self.root_uuid);
        for (name, value) in [
            ("DIB_IMAGE_SIZE", self.options.image_size_gib.as_ref()),
            ("DIB_IMAGE_EXTRA_SIZE", self.options.image_extra_size_mib.as_ref()),
            ("MAX_ONLINE_RESIZE", settings.max_online_resize.as_ref()),
            ("DIB_JOURNAL_SIZE", self.options.journal_size_mib.as_ref()),
        ] {
            if let Some(value) = value {
                env.set(name, value.as_str());
            }
        }
        if self.options.skip_base {
            env.set("SKIP_BASE", "1");
        }
        env.set("DIB_ENV", self.declared());
    }

    /// The values of the [`OUTPUT_VARIABLES`].
    fn of_outputs(&self) -> Vec<(&'static str, &str)> {
        let first = self.options.formats.first().map_or("qcow2", |format| format.name.as_str());
        let checksum = if self.settings.checksums.is_empty() { "0" } else { "1" };
        let [kind, sums, docker] = OUTPUT_VARIABLES;
        let mut values = vec![(kind, first), (sums, checksum)];
        values.extend(self.options.docker_target.as_deref().map(|target| (docker, target)));
        values
    }

    fn add_elements(&self, env: &mut Variables) {
        let names: Vec<&str> = self.elements.iter().map(|element| element.name.as_str()).collect();
        let mut yaml = String::new();
        let mut array = String::new();
        for element in self.elements {
            let path = guest_path(element);
            // Writing to a String cannot fail.
            let _ = writeln!(yaml, "{}: {}", scalar(&element.name), scalar(&path));
            let _ = write!(array, "[{}]={path} ", element.name);
        }
        let paths: Vec<String> =
            (0..self.search_paths).map(|n| format!("{}/{n}", guest::ELEMENTS)).collect();
        env.set("ELEMENTS_PATH", paths.join(":"));
        if self.options.ramdisk {
            add_what_ramdisks_want(env, &paths);
        }
        env.set("IMAGE_ELEMENT", names.join(" "));
        env.set("IMAGE_ELEMENT_YAML", yaml);
        env.set(
            "BASH_FUNC_get_image_element_array%%",
            format!("() {{ echo {}; }}", double_quoted(&array)),
        );
        env.set("BASH_FUNC_die%%", DIE);
    }

    /// The user's `DIB_` variables as `declare -p` prints them.
    fn declared(&self) -> String {
        let lines: Vec<String> = self
            .settings
            .variables
            .iter()
            .filter(|(name, _)| name.starts_with("DIB_"))
            .map(|(name, value)| format!("declare -x {name}={}", double_quoted(value)))
            .collect();
        lines.join("\n")
    }
}

/// Quotes arguments into one text that a shell can parse.
fn arguments(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// The path of an element in the guest.
pub(crate) fn guest_path(element: &Element) -> String {
    format!("{}/{}/{}", guest::ELEMENTS, element.search_index, element.name)
}

/// A YAML scalar: plain if that is safe, otherwise as a JSON string.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    // A plain word of digits would be a number, and `no` a boolean.
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
        );
    if word && text.chars().all(plain) {
        text.to_owned()
    } else {
        serde_json::Value::String(text.to_owned()).to_string()
    }
}

/// A word for a shell, quoted only if needed.
fn quoted(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A text in bash double quotes.
pub(crate) fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// Sets the variables that the element `ramdisk` needs. In the image, it sources
/// diskimage-builder's defaults and functions under `set -u`; these use variables that
/// diskimage-builder 3.43 does not export at that point.
fn add_what_ramdisks_want(env: &mut Variables, search_paths: &[String]) {
    /// The directory of the image in which the ramdisk is packed.
    const PACKED: &str = "/tmp/ramdisk-image";
    if let Some(own) = search_paths.last() {
        env.set("_BASE_ELEMENT_DIR", own.as_str());
    }
    env.set("TMP_IMAGE_PATH", PACKED);
    env.set("EXTRA_DETACH", "");
}

#[cfg(test)]
mod tests;
