//! Layers from lists, disks in memory, records with little in them.

use std::{collections::BTreeMap, io, path::Path};

use store::{
    Digest, DiskName, DiskState, Extent, ExtentSource, ExtentTarget, Lease, RECORD_VERSION,
    RecordKind, StageRecord, Store, StoredLayer,
};

/// Size of the disks in memory.
pub(crate) const DISK_BYTES: usize = 64 << 10;

/// A layer from a list.
pub(crate) struct Listed(pub(crate) Vec<Extent>);

impl ExtentSource for Listed {
    fn disk_bytes(&self) -> u64 {
        DISK_BYTES as u64
    }

    fn next_extent(&mut self) -> io::Result<Option<Extent>> {
        Ok((!self.0.is_empty()).then(|| self.0.remove(0)))
    }
}

/// A disk in memory.
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl ExtentTarget for Memory {
    fn extent(&mut self, extent: &Extent) -> io::Result<()> {
        let range =
            usize::try_from(extent.offset()).unwrap()..usize::try_from(extent.end()).unwrap();
        match extent {
            Extent::Data { bytes, .. } => self.0[range].copy_from_slice(bytes),
            Extent::Zeros { .. } => self.0[range].fill(0),
        }
        Ok(())
    }
}

/// Numbers that look random and are always the same.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

pub(crate) fn store_in(dir: &Path) -> Store {
    Store::open(&dir.join("store")).unwrap()
}

/// A layer of incompressible bytes.
pub(crate) fn noise(seed: u64) -> Listed {
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let bytes = (0..20_000).map(|_| u8::try_from(numbers.below(256)).unwrap()).collect();
    Listed(vec![Extent::Data { offset: 4096, bytes }])
}

pub(crate) fn put(lease: &Lease, seed: u64) -> StoredLayer {
    lease.put_layer(&mut noise(seed)).unwrap()
}

/// A key that is a number.
pub(crate) fn key(number: u8) -> Digest {
    Digest([number; 32])
}

pub(crate) fn record(number: u8, layers: &[Digest]) -> StageRecord {
    let disk = DiskState { bytes: DISK_BYTES as u64, layers: layers.to_vec() };
    StageRecord {
        version: RECORD_VERSION,
        key: key(number),
        parent: None,
        kind: RecordKind::Stage,
        name: format!("stage {number}").into(),
        created: 1_000_000_000,
        elapsed_ms: 1234,
        disks: BTreeMap::from([(DiskName::new("root").unwrap(), disk)]),
        state: serde_json::Value::Null,
        fetched: Some(1_000_000_000),
        build: "test".into(),
        files: Vec::new(),
        origin: None,
        inputs: BTreeMap::new(),
        connections: Vec::new(),
        more_connections: 0,
        ran: Vec::new(),
        log: None,
    }
}
