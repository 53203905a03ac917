//! The agent as a host sees it, served over a pair of sockets in this process:
//! no machine, no privileges. What needs those is tested in real guests.

#[cfg(test)]
mod client;
#[cfg(test)]
mod files;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod protocol;
