//! Addresses that stand for names: the resolver answers with them, and a connection to one of them
//! is mapped back to the name, so that the host decides by name.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first address of 198.18.0.0/15, a network that is reserved for benchmarks (RFC 2544): no
/// name that a build resolves has a real address in it.
const FIRST: u32 = 0xc612_0000;

/// The number of addresses in the network. When all are in use, a new name gets the oldest one.
const COUNT: u32 = 1 << 17;

/// How long a resolved name is known without asking the host again. A download of many files
/// resolves the same name for each, and the connection fails anyway if the name no longer exists.
const KNOWN_FOR: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Known {
    index: u32,
    until: Instant,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<String, Known>,
    by_index: HashMap<u32, String>,
    next: u32,
}

/// The names that have addresses.
#[derive(Debug, Default)]
pub struct Names(Mutex<Table>);

impl Names {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the address of a name that the host resolved within the last five minutes.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<Ipv4Addr> {
        let table = self.lock();
        let known = table.by_name.get(name).filter(|known| Instant::now() < known.until)?;
        Some(Ipv4Addr::from(FIRST + known.index))
    }

    /// Assigns an address to a name that the host has resolved. A name keeps the address that it
    /// has.
    pub fn give(&self, name: &str) -> Ipv4Addr {
        let until = Instant::now() + KNOWN_FOR;
        let mut table = self.lock();
        if let Some(known) = table.by_name.get_mut(name) {
            known.until = until;
            return Ipv4Addr::from(FIRST + known.index);
        }
        // The first and the last address are skipped, as they look like a network and its
        // broadcast.
        let index = 1 + table.next % (COUNT - 2);
        table.next = table.next.wrapping_add(1);
        if let Some(old) = table.by_index.insert(index, name.to_owned()) {
            table.by_name.remove(&old);
        }
        table.by_name.insert(name.to_owned(), Known { index, until });
        Ipv4Addr::from(FIRST + index)
    }

    /// Returns the host to connect to: the name to which the address is assigned, or otherwise the
    /// address itself.
    #[must_use]
    pub fn host_of(&self, address: Ipv4Addr) -> String {
        let index = u32::from(address).wrapping_sub(FIRST);
        let name = (index < COUNT).then(|| self.lock().by_index.get(&index).cloned()).flatten();
        name.unwrap_or_else(|| address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_address_and_leads_back() {
        let names = Names::default();
        assert_eq!(names.known("a.example"), None);
        let address = names.give("a.example");
        assert_eq!(address, Ipv4Addr::new(198, 18, 0, 1));
        assert_ne!(names.give("b.example"), address);
        assert_eq!(names.give("a.example"), address);
        assert_eq!(names.known("a.example"), Some(address));
        assert_eq!(names.host_of(address), "a.example");
        assert_eq!(names.host_of(Ipv4Addr::new(192, 0, 2, 7)), "192.0.2.7");
        assert_eq!(names.host_of(Ipv4Addr::new(198, 19, 255, 255)), "198.19.255.255");
    }

    #[test]
    fn the_oldest_name_gives_way() {
        let names = Names::default();
        let first = names.give("first");
        names.lock().next = COUNT - 2;
        assert_eq!(names.give("new"), first);
        assert_eq!(names.known("first"), None);
        assert_eq!(names.host_of(first), "new");
    }
}
