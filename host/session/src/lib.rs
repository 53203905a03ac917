//! The host end of the conversation with a guest agent.
