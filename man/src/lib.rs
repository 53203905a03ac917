//! vbuild(1) and its companions, rendered from the command line's own types.
