//! The build as data: stages, steps, disk layout, outputs.
