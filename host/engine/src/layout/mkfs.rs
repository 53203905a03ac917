//! The commands that create filesystems.

use plan::Filesystem;
use uuid::Uuid;

use crate::{EngineError, guest::Guest};

/// Creates a filesystem. Returns its UUID, if it has a known one.
pub(crate) async fn make(
    guest: &Guest,
    filesystem: &Filesystem,
    device: &str,
    (uuid, hash_seed): (String, Uuid),
) -> Result<Option<String>, EngineError> {
    let (mut argv, known) = command(filesystem, &uuid, hash_seed);
    argv.push(device.to_owned());
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    guest.run_tool(&words).await?;
    Ok(known)
}

/// Returns the command that creates a filesystem, without the device, and the UUID that the
/// filesystem will have. `hash_seed` is the seed of the hashes in ext directories, which determine
/// the order of entries.
pub(crate) fn command(
    filesystem: &Filesystem,
    uuid: &str,
    hash_seed: Uuid,
) -> (Vec<String>, Option<String>) {
    let label = filesystem.label.as_deref();
    let mut options: Vec<&str> = filesystem.options.iter().map(String::as_str).collect();
    let mut argv: Vec<&str> = Vec::new();
    let mut known = Some(uuid.to_owned());
    let xfs_uuid = format!("uuid={uuid}");
    let vfat_id = uuid.replace('-', "")[..8].to_ascii_uppercase();
    let extended;
    match filesystem.fstype.as_str() {
        "swap" => {
            argv.extend(["mkswap", "-U", uuid]);
            argv.extend(label.into_iter().flat_map(|label| ["-L", label]));
        }
        kind => {
            argv.extend(["mkfs", "-t", kind]);
            // Discarding the blocks of a sparse file that was never written to is useless work.
            argv.extend(match kind {
                "ext2" | "ext3" | "ext4" => {
                    let own = format!("nodiscard,hash_seed={hash_seed}");
                    extended = with_extended(own, &mut options);
                    vec!["-F", "-q", "-U", uuid, "-E", &extended]
                }
                "xfs" => vec!["-f", "-q", "-K", "-m", &xfs_uuid],
                "btrfs" => vec!["-f", "-q", "--nodiscard", "-U", uuid],
                "vfat" | "fat" | "msdos" => {
                    known = Some(format!("{}-{}", &vfat_id[..4], &vfat_id[4..]));
                    vec!["-i", &vfat_id]
                }
                _ => {
                    known = None;
                    Vec::new()
                }
            });
            let word = if matches!(kind, "vfat" | "fat" | "msdos") { "-n" } else { "-L" };
            argv.extend(options);
            argv.extend(label.into_iter().flat_map(|label| [word, label]));
        }
    }
    (argv.into_iter().map(str::to_owned).collect(), known)
}

/// Removes the user's `-E` options from `options` and appends them to vbuild's own, because mke2fs
/// uses only the last `-E`. Where both are set, the user's options take precedence.
fn with_extended(own: String, options: &mut Vec<&str>) -> String {
    let mut joined = own;
    let mut left = Vec::new();
    let mut words = std::mem::take(options).into_iter();
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("-E") {
            Some("") => words.next(),
            Some(value) => Some(value),
            None => {
                left.push(word);
                continue;
            }
        };
        joined.extend(value.into_iter().flat_map(|value| [",", value]));
    }
    *options = left;
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_options_are_one() {
        let filesystem = Filesystem {
            base: "root".into(),
            fstype: "ext4".into(),
            label: Some("l".into()),
            uuid: None,
            options: ["-i", "4096", "-E", "resize=9", "-Estride=2"].map(String::from).to_vec(),
        };
        let uuid = Uuid::from_u128(7).to_string();
        let (argv, known) = command(&filesystem, &uuid, Uuid::from_u128(8));
        let expected = format!(
            "mkfs -t ext4 -F -q -U {uuid} -E nodiscard,hash_seed={},resize=9,stride=2 -i 4096 -L l",
            Uuid::from_u128(8)
        );
        assert_eq!(argv.join(" "), expected);
        assert_eq!(known, Some(uuid));
    }
}
