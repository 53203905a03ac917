//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests.

use crate::{
    complaint::Source,
    spec,
    template::{self, Variables},
    yaml,
};

/// Reads a spec, from the text to its steps. Templates have their own target.
pub fn spec(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).replace(['{', '}'], " ");
    if let Ok(document) = yaml::read(&text) {
        let _ = document.root.repr();
    }
    let source = Source { name: "spec".into(), text };
    let _ = spec::read(source, &variables(), bytes.first().is_some_and(|byte| byte % 2 == 0));
}

/// Renders one template. Numbers of more than three digits are truncated, since a template may
/// produce texts of a hundred megabytes.
pub fn template(bytes: &[u8]) {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    let mut digits = 0;
    text.retain(|c| {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        digits <= 3
    });
    let node = yaml::Node { at: yaml::Position::default(), value: yaml::Value::Text(text) };
    let _ = template::render(&node, &variables());
}

fn variables() -> Variables {
    Variables::new(Some("out.img"), None, Some("root.tar"), "amd64")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    const WORDS: &str = "(steps:\\n|- |  |mkimg: |mklabel: |mkpart: |kpartx: |mkfs: |mount: |debootstrap: |\
                         apt: |chroot: |shell: |device: |size: |start: |end: |tag: |fs-tag: |packages: |ext4|\
                         4G|100%|0755|gpt|root|\\[|\\]|, |&x |\\*x|<<: |\\||\\n){0,60}";

    proptest! {
        #[test]
        fn specs(text in WORDS) {
            memory_bound::within(8 << 20, || super::spec(text.as_bytes()));
        }

        #[test]
        fn templates(
            text in "(\\{\\{|\\}\\}|\\{%|%\\}| |output|image|if|else|endif|for x in|endfor|[a-z0-9|~+*.'()]){0,30}",
        ) {
            memory_bound::within(64 << 20, || super::template(text.as_bytes()));
        }
    }
}
