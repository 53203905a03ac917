//! The protocol between vbuild and its guest agent.
