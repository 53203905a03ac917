//! A plan gives the same tree in one machine and with a new machine per stage, as the engine's
//! contexts guarantee.

use std::{collections::BTreeMap, path::Path};

use tests::archive::{Member, members};

use crate::{harness::ground, plans};

/// The members of an archive without times.
pub fn tree(tar: &Path) -> BTreeMap<String, Member> {
    let times = |(name, member): (String, Member)| (name, member.without_times());
    members(tar).into_iter().map(times).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_and_many_give_the_same_tree() {
    let Some(mut ground) = ground("one_machine_and_many_give_the_same_tree") else { return };
    ground.settings.seed = Some("test".into());
    let (one, many) = (ground.path("one.tar"), ground.path("many.tar"));
    for (tar, fresh) in [(&one, false), (&many, true)] {
        ground.settings.fresh_machine_per_stage = fresh;
        let plan = plans::whole(tar, &ground.path("image.raw"));
        if let Err(error) = vbuild::build(&plan, &ground.settings, &ground.ctx).await {
            panic!("fresh={fresh}: {error:?}\n{}", ground.recorder.lines().join("\n"));
        }
    }
    let (one, many) = (tree(&one), tree(&many));
    let names = |tree: &BTreeMap<String, Member>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&many));
    for (name, entry) in &one {
        assert_eq!(entry, &many[name], "{name}");
    }
    check_tree(&one);
}

/// Checks that the tree contains everything that copying loses easily.
fn check_tree(tree: &BTreeMap<String, Member>) {
    let entry = |name: &str| tree.get(name).unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!(entry("etc/environment-seen").content, b"two words\n");
    assert_eq!(
        String::from_utf8_lossy(&entry("etc/fstab").content),
        "LABEL=root / ext4 defaults 0 1\nLABEL=boot /boot ext4 defaults 0 1\n"
    );
    assert_eq!(entry("bin/busybox").mode & 0o7777, 0o4755);
    let (hard, one) = (entry("etc/hard"), entry("etc/one"));
    assert!(hard.link.is_some() ^ one.link.is_some(), "etc/one and etc/hard are one file");
    assert_eq!(one.owner, (12, 34));
    assert_eq!(entry("etc/soft").link.as_deref(), Some("one"));
    assert_eq!(entry("dev-node").device, Some((1, 3)));
    assert_eq!(entry("sparse").content.len(), 16 << 20);
    assert!(tree.contains_key(".dotfile"));
    assert!(tree.contains_key("inside"));
    assert_eq!(entry("boot/kernel").content, b"boot\n");
    let xattrs: Vec<&String> = tree.values().flat_map(|entry| entry.extensions.keys()).collect();
    for wanted in ["user.test", "security.capability", "system.posix_acl_access"] {
        assert!(xattrs.iter().any(|key| key.ends_with(wanted)), "{wanted}: {xattrs:?}");
    }
    // The bind-mounted cache is not in the image.
    assert!(!tree.contains_key("var/cache/thing/two"));
    assert!(!tree.keys().any(|name| name.starts_with("tmp/in_target.d")));
}
