//! Tests with the real Debian, as far as possible without a machine: packages from the host's
//! mirror are verified, unpacked and written as an image. It needs the network and downloads 160
//! MB, so it runs only with `VBUILD_TEST_DEBIAN=1`; a cache folder in `VBUILD_TEST_CACHE` is kept.

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

use appliance::{FirstStage, FirstStageSpec, Request, Silent};

/// Checks the specification of the first stage, and reports success.
struct Onlooker;

impl FirstStage for Onlooker {
    fn run(
        &self,
        spec: &FirstStageSpec,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<i32, Box<dyn Error + Send + Sync>> {
        let kernel = std::fs::read(&spec.kernel)?;
        assert_eq!(kernel.get(0x202..0x206), Some(b"HdrS".as_slice()), "it is a bzImage");
        let initrd = std::fs::read(&spec.initrd)?;
        assert!(initrd.starts_with(b"070701"), "it is a newc archive");
        output(b"vbuild-done\n");
        Ok(0)
    }
}

#[expect(clippy::print_stdout, reason = "a skip says why")]
fn check_file_system(image: &Path) {
    match Command::new("e2fsck").arg("-fn").arg(image).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        Err(error) => println!("skipped: e2fsck cannot be run ({error})"),
    }
    match Command::new("dumpe2fs").arg("-h").arg(image).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("vbuild-tools"), "the label is there: {text}");
        }
        Err(error) => println!("skipped: dumpe2fs cannot be run ({error})"),
    }
}

#[test]
fn debians_packages_become_a_tool_root() {
    if std::env::var_os("VBUILD_TEST_DEBIAN").is_none() {
        println!("skipped: it downloads 160 MB; set VBUILD_TEST_DEBIAN=1");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let cache = std::env::var_os("VBUILD_TEST_CACHE")
        .map_or_else(|| temporary.path().join("cache"), PathBuf::from);
    let agent = temporary.path().join("agent");
    std::fs::write(&agent, "no agent").unwrap();
    let mut request = Request::new(cache, agent);
    request.refresh = true;
    let appliance = appliance::build(&request, &Onlooker, &mut Silent).unwrap();
    let image = appliance.root_image();
    check_file_system(&image);
    let fs = mkext4::reader::Fs::open(std::fs::File::open(&image).unwrap()).unwrap();
    let sudo = fs.inode(fs.resolve("/usr/bin/sudo").unwrap()).unwrap();
    assert_eq!((sudo.mode & 0o7777, sudo.uid), (0o4755, 0));
    for path in [
        "/usr/sbin/debootstrap",
        "/usr/bin/qemu-img",
        "/usr/bin/python3",
        "/usr/sbin/mkfs.xfs",
        "/etc/ssl/certs/ca-certificates.crt",
        "/var/lib/dpkg/status",
    ] {
        assert!(fs.resolve(path).is_ok(), "`{path}` is there");
    }
    let bundle = fs.resolve("/etc/ssl/certs/ca-certificates.crt").unwrap();
    assert!(fs.read_file(bundle).unwrap().starts_with(b"-----BEGIN CERTIFICATE-----"));
    let modules = format!("/usr/lib/modules/{}/modules.builtin", appliance.kernel_version());
    assert!(fs.resolve(&modules).is_ok());
}
