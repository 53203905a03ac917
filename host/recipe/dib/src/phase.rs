//! The phases of a build, in the order in which they run.

/// A phase. Its hooks are in the directory [`Phase::directory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Creates the tree, outside.
    Root,
    /// Copies data into the tree, outside.
    ExtraData,
    /// Prepares package installation, inside.
    PreInstall,
    /// Installs, inside.
    Install,
    /// Continues after packages are installed, inside.
    PostInstall,
    /// Works on the complete tree, outside.
    PostRoot,
    /// The old way to create block devices, outside.
    BlockDevice,
    /// Works on the mounted image, outside.
    PreFinalise,
    /// Installs boot loaders and the like, inside.
    Finalise,
    /// Removes what only the build needed, outside.
    Cleanup,
}

impl Phase {
    /// All phases in running order.
    pub const ALL: [Self; 10] = [
        Self::Root,
        Self::ExtraData,
        Self::PreInstall,
        Self::Install,
        Self::PostInstall,
        Self::PostRoot,
        Self::BlockDevice,
        Self::PreFinalise,
        Self::Finalise,
        Self::Cleanup,
    ];

    /// The directory of its hooks, which also names the phase in messages.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Self::Root => "root.d",
            Self::ExtraData => "extra-data.d",
            Self::PreInstall => "pre-install.d",
            Self::Install => "install.d",
            Self::PostInstall => "post-install.d",
            Self::PostRoot => "post-root.d",
            Self::BlockDevice => "block-device.d",
            Self::PreFinalise => "pre-finalise.d",
            Self::Finalise => "finalise.d",
            Self::Cleanup => "cleanup.d",
        }
    }

    /// The phase of a hook directory.
    #[must_use]
    pub fn of_directory(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.directory() == name)
    }

    /// Whether its scripts run inside the image.
    #[must_use]
    pub fn is_inside(self) -> bool {
        matches!(self, Self::PreInstall | Self::Install | Self::PostInstall | Self::Finalise)
    }
}
