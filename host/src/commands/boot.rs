//! `vbuild boot`: boots a finished image on its serial console, without changing the image.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base_image::{BackingFormat, Magic};
use checked::Printable;
use clap::Args;
use confine::Confinement;
use engine::Network as _;
use machine::{
    BlockSize, DriveFormat, Layer, MachineArchitecture,
    accel::{Accel, Chosen},
};
use qemu::{
    Qemu, QemuAccel,
    boot::{BootSpec, Firmware, Network, NotSeen, Session, Terminal, find_uefi},
};
use tokio::sync::watch;

use super::context::{Outcome, ProcessContext};
use crate::{
    build::{bases, options, runtime},
    cli::{AccelArgs, ArchArgs, BackingArgs, CacheDirArgs, ReachArgs, drive_format, positive, smp},
    error::{CommandError, Kind},
    machine::{
        backend, confinement,
        network::{self, connection_event},
    },
};

/// The number of console lines that are shown if an expected text does not appear.
const CONSOLE_TAIL_LINES: usize = 40;

/// The arguments of `vbuild boot`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "The image stays as it is; what the guest changes is gone when it ends. Ctrl-A X \
                        ends the guest, Ctrl-C is the guest's."
)]
pub(crate) struct BootArgs {
    /// The image to boot
    #[arg(value_name = "IMAGE")]
    pub(crate) image: PathBuf,

    /// Format of the image [default: qcow2 for *.qcow2, what the suffix says for vmdk, vhd, vhdx,
    /// vdi and packed images, else raw]
    #[arg(long, value_name = "FORMAT", value_parser = drive_format())]
    pub(crate) format: Option<DriveFormat>,

    /// Logical block size of the disk: 512 or 4096
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = block_size)]
    pub(crate) block_size: BlockSize,

    /// The options for booting the image.
    #[command(flatten)]
    pub(crate) trial: TrialArgs,
}

/// The options for booting an image, of `vbuild boot` and `vbuild layers test-boot`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct TrialArgs {
    /// The architecture of the image.
    #[command(flatten)]
    pub(crate) arch: ArchArgs,

    /// Boot with UEFI instead of BIOS; an image of arm64 always does
    #[arg(long)]
    pub(crate) uefi: bool,

    /// Give the guest a network card, through which it reaches public hosts as build scripts do
    ///
    /// The guest gets the address 10.0.2.15 by DHCP, with a gateway and a name server. TCP over
    /// IPv4 and the lookup of names are open. Loopback, private and link-local addresses, cloud
    /// metadata and the host's own addresses are closed, except for those that --allow-host and
    /// --allow-private open.
    #[arg(long = "with-network")]
    pub(crate) network: bool,

    /// The hosts that the guest may reach.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,

    /// Do not show the console, but wait until TEXT appears on it and end; may be given
    /// several times, for one text after another
    #[arg(long, value_name = "TEXT")]
    pub(crate) expect: Vec<String>,

    /// Type TEXT and Return when an expected text has appeared; the first --answer belongs to the
    /// first --expect
    #[arg(long, value_name = "TEXT", requires = "expect", allow_hyphen_values = true)]
    pub(crate) answer: Vec<String>,

    /// Wait at most SECONDS for each text
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = positive,
          requires = "expect")]
    pub(crate) timeout: u32,

    /// The accelerator that runs the guest.
    #[command(flatten)]
    pub(crate) accel: AccelArgs,

    /// Memory of the guest in MiB
    #[arg(short = 'm', long, value_name = "MIB", default_value = "1024", value_parser = positive)]
    pub(crate) memsize: u32,

    /// Processors of the guest
    #[arg(long, value_name = "N", default_value = "2", value_parser = smp)]
    pub(crate) smp: u8,

    /// The backing files that the image may have.
    #[command(flatten)]
    pub(crate) backing: BackingArgs,
    /// The cache directory, in which vbuild has recorded the backing files of its own images.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    match text {
        "512" => Ok(BlockSize::B512),
        "4096" => Ok(BlockSize::B4096),
        _ => Err(format!("a block size is 512 or 4096, not `{text}`")),
    }
}

/// Boots the image.
///
/// # Errors
/// Fails if the image cannot be opened, if QEMU or the firmware is missing, or if an expected text
/// does not appear.
pub(crate) fn run(context: &ProcessContext, args: &BootArgs) -> Outcome {
    if args.trial.answer.len() > args.trial.expect.len() {
        return Err(CommandError::usage("there are more answers (--answer) than texts (--expect)"));
    }
    let network = way_out(&args.trial)?;
    let mut spec = spec(args)?;
    let accel = accel(args.trial.accel.accel, spec.architecture)?;
    let qemu = Qemu::new(spec.architecture, None, accel)?;
    let require = args.trial.accel.require_confinement;
    let demand = |held: &[Confinement]| if require { confinement::demand(held) } else { Ok(()) };
    if args.trial.expect.is_empty() {
        let status = runtime::runtime()?.block_on(async {
            // The terminal is the guest's, so connections are not reported.
            spec.network =
                network.map(|policy| egress_channel(policy, Arc::new(|_| {}))).transpose()?;
            let mut terminal = Terminal::start(&qemu, &spec).await?;
            demand(&terminal.confinement())?;
            terminal.wait().await.map_err(CommandError::from)
        })?;
        return Ok(u8::from(!status.success()));
    }
    runtime::quietly(&context.console, async |ctx| {
        let observer = Arc::clone(&ctx.observer);
        let on_record = move |record: &egress::Record| observer.event(&connection_event(record));
        spec.network =
            network.map(|policy| egress_channel(policy, Arc::new(on_record))).transpose()?;
        let mut session = Session::start(&qemu, &spec).await?;
        demand(&session.confinement())?;
        expect(&mut session, args, ctx.cancel).await
    })?;
    for text in &args.trial.expect {
        context.console.print(&format!("`{text}` appeared on the console\n"))?;
    }
    Ok(0)
}

/// Returns the network policy of the guest, or `None` for a guest without a network.
fn way_out(trial: &TrialArgs) -> Result<Option<egress::Policy>, CommandError> {
    let ReachArgs { allow_host, allow_private, proxy_resolves } = &trial.reach;
    if trial.network {
        return network::rules(allow_host, *allow_private, *proxy_resolves).map(Some);
    }
    if trial.reach == ReachArgs::default() {
        return Ok(None);
    }
    Err(CommandError::usage("what a guest may reach is said for a guest without a network")
        .hint("add `--with-network`"))
}

/// Creates the egress channel behind QEMU's network card.
fn egress_channel(
    policy: egress::Policy,
    on_record: egress::OnRecord,
) -> Result<Network, CommandError> {
    let network = network::Network::with_policy(policy, on_record)?;
    Ok(Network { egress: network.on_guest_connect(), port: wire::EGRESS_PORT })
}

/// Waits for each expected text in turn and types its answer, until `cancel` becomes true.
async fn expect(
    session: &mut Session,
    args: &BootArgs,
    mut cancel: watch::Receiver<bool>,
) -> Result<(), CommandError> {
    let limit = Duration::from_secs(args.trial.timeout.into());
    for (number, text) in args.trial.expect.iter().enumerate() {
        let seen = tokio::select! {
            seen = session.expect(text, limit) => seen,
            Ok(_) = cancel.wait_for(|stop| *stop) => {
                return Err(CommandError::message(Kind::Interrupted, "the guest was stopped"));
            }
        };
        seen.map_err(|error| not_seen(error, &session.console()))?;
        if let Some(answer) = args.trial.answer.get(number) {
            session.send(&format!("{answer}\r")).await.map_err(|error| {
                CommandError::new(Kind::Host, error).context("cannot type into the guest")
            })?;
        }
    }
    Ok(())
}

fn not_seen(error: NotSeen, console: &str) -> CommandError {
    let lines: Vec<_> = Printable::output_lines(console).map(String::from).collect();
    let tail = lines[lines.len().saturating_sub(CONSOLE_TAIL_LINES)..].join("\n");
    CommandError::new(Kind::Build, error).hint(format!("the end of the console:\n{tail}"))
}

fn spec(args: &BootArgs) -> Result<BootSpec, CommandError> {
    let image = readable(args)?;
    let format = format(&image, args.format)?;
    let architecture = args.trial.arch.machine();
    // Only a PC has a BIOS.
    let uefi = args.trial.uefi || architecture != MachineArchitecture::Amd64;
    Ok(BootSpec {
        architecture,
        format,
        below: match format {
            DriveFormat::Raw => Vec::new(),
            DriveFormat::Qcow2 => below(&image, &args.trial)?,
        },
        image,
        block_size: args.block_size,
        firmware: match uefi {
            false => Firmware::Bios,
            true => Firmware::Uefi(find_uefi(architecture)?),
        },
        memory_mib: args.trial.memsize,
        vcpus: args.trial.smp,
        network: None,
    })
}

/// The suffixes of images that vbuild itself converts to a raw disk before it boots them, so that
/// QEMU's drivers for these formats never parse data that a guest has written.
const READ_FIRST: &[&str] = &["vmdk", "vhd", "vhdx", "vdi", "gz", "xz", "zst"];

/// Returns the path to boot: the image, or the raw disk in the cache that it was converted to.
/// Without `--format`, the image's name decides, not its content.
fn readable(args: &BootArgs) -> Result<PathBuf, CommandError> {
    let ending = args.image.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if args.format.is_some() || !READ_FIRST.contains(&ending) {
        return Ok(args.image.clone());
    }
    let folder = bases::folder(&options::cache_dir(&args.trial.cache_dir));
    let found = base_image::open(&args.image, None, &args.trial.backing.allowed(), &folder);
    found.map(|image| image.raw).map_err(CommandError::from)
}

/// Returns the backing files of a qcow2 image, nearest first. Each must have been recorded by
/// vbuild or allowed by the user.
fn below(image: &Path, trial: &TrialArgs) -> Result<Vec<Layer>, CommandError> {
    let folder = bases::folder(&options::cache_dir(&trial.cache_dir));
    let files = base_image::layers(image, &trial.backing.allowed(), &folder)?;
    let layer = |(path, format)| Layer {
        path,
        format: match format {
            BackingFormat::Qcow2 => DriveFormat::Qcow2,
            BackingFormat::Raw => DriveFormat::Raw,
        },
    };
    Ok(files.into_iter().skip(1).map(layer).collect())
}

/// Returns the format of the image: `asked`, or else the one that its name gives. The content is
/// only checked against it, because a guest has written the content, and a qcow2 header can name
/// other files of the host.
fn format(image: &Path, asked: Option<DriveFormat>) -> Result<DriveFormat, CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::new(Kind::Usage, error)
            .context(format!("cannot open the image {}", image.display()))
    };
    let is_qcow2 = File::open(image).and_then(Magic::read).map_err(failed)? == Some(Magic::Qcow2);
    let named_qcow2 = image.extension().is_some_and(|extension| extension == "qcow2");
    match (asked, named_qcow2) {
        (Some(DriveFormat::Raw), _) => Ok(DriveFormat::Raw),
        (Some(DriveFormat::Qcow2), _) | (None, true) if is_qcow2 => Ok(DriveFormat::Qcow2),
        (None, false) if !is_qcow2 => Ok(DriveFormat::Raw),
        (None, false) => {
            let text = format!("{} is qcow2, but its name does not say so", image.display());
            Err(CommandError::usage(text).hint("`--format qcow2` if that is right"))
        }
        _ => Err(CommandError::usage(format!("{} is not qcow2", image.display()))),
    }
}

/// Chooses QEMU's accelerator. Unlike builds, images boot only on QEMU.
fn accel(asked: Accel, architecture: MachineArchitecture) -> Result<QemuAccel, CommandError> {
    Ok(match backend::decide(asked, architecture)?.chosen {
        Chosen::Microvm => QemuAccel::Kvm,
        Chosen::QemuTcg => QemuAccel::Tcg,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_the_format() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, head: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, head).unwrap();
            path
        };
        let good = file("a.qcow2", b"QFI\xfb rest");
        let hidden = file("b.raw", b"QFI\xfb rest");
        let raw = file("c.raw", b"\xeb\x63\x90\x10");
        let wrong = file("d.qcow2", b"\xeb\x63\x90\x10");
        assert_eq!(format(&good, None).unwrap(), DriveFormat::Qcow2);
        assert_eq!(format(&raw, None).unwrap(), DriveFormat::Raw);
        assert_eq!(format(&hidden, Some(DriveFormat::Raw)).unwrap(), DriveFormat::Raw);
        assert_eq!(format(&hidden, Some(DriveFormat::Qcow2)).unwrap(), DriveFormat::Qcow2);
        assert!(format(&hidden, None).is_err());
        assert!(format(&wrong, None).is_err());
        assert!(format(&raw, Some(DriveFormat::Qcow2)).is_err());
        assert!(format(Path::new("/nothing/here"), None).is_err());
    }
}
