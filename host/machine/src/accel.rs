//! Which accelerator to use, and why: the probe of `/dev/kvm`.
