//! The thin library behind the vbuild binary.
