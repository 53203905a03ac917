//! The grammar, on the facts of the original's own tests.
