//! vbuild: builds Linux disk images in a microVM, as an ordinary user.

fn main() {}
