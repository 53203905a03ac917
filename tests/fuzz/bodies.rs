//! The fuzz targets by name, for `targets.rs`, which runs them with coverage guidance, and for the
//! test `corpus`, which runs the inputs in the repository. A body is a function of the crate whose
//! parser it tests; proptest runs it there too.

/// A target: its name, which is also that of its corpus and program, and its body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
pub(crate) const TARGETS: &[Target] = &[
    ("agent_kernel_files", guest_agent::fuzzing::kernel_files),
    ("agent_name_query", guest_agent::fuzzing::name_query),
    ("appliance_package", appliance::fuzzing::package),
    ("appliance_packages", appliance::fuzzing::packages),
    ("appliance_release", appliance::fuzzing::release),
    ("appliance_versions", appliance::fuzzing::versions),
    ("b9_erlang", b9::fuzzing::erlang),
    ("b9_template", b9::fuzzing::template),
    ("b9_term", b9::fuzzing::term),
    ("b9_yaml", b9::fuzzing::yaml),
    ("base_block_tables", base_image::fuzzing::block_tables),
    ("base_partition_table", base_image::fuzzing::partition_table),
    ("base_vmdk", base_image::fuzzing::vmdk),
    ("dib_block_device", dib::fuzzing::block_device),
    ("dib_index_page", dib::fuzzing::index_page),
    ("engine_reports", engine::fuzzing::reports),
    ("layers_config", layers::fuzzing::config),
    ("layers_script", layers::fuzzing::script),
    ("netstack_frames", netstack::fuzzing::frames),
    ("output_squashfs", output::fuzzing::squashfs),
    ("output_unpack", output::fuzzing::unpack),
    ("qcow2_header", qcow2::fuzz::image),
    ("qemu_monitor", qemu::fuzzing::monitor),
    ("session_dispatch", session::fuzzing::dispatch),
    ("store_layer", store::fuzzing::layer),
    ("store_overlay", store::fuzzing::overlay),
    ("store_record", store::fuzzing::record),
    ("tar_archive", tar_stream::fuzzing::archive),
    ("vmdb_spec", vmdb::fuzzing::spec),
    ("vmdb_template", vmdb::fuzzing::template),
    ("vmm_block_request", microvm::fuzzing::block_request),
    ("vmm_control_message", microvm::fuzzing::control_message),
    ("vmm_kernel_header", microvm::fuzzing::kernel_header),
    ("vmm_mmio_registers", microvm::fuzzing::mmio_registers),
    ("vmm_qcow2_image", microvm::fuzzing::qcow2_image),
    ("vmm_racing_memory", microvm::fuzzing::racing_memory),
    ("vmm_saved_state", microvm::fuzzing::saved_state),
    ("vmm_vsock_packet", microvm::fuzzing::vsock_packet),
    ("wire_egress", wire::fuzzing::egress),
    ("wire_frames", wire::fuzzing::frames),
];
