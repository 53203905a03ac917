//! Tests of the register file with a fake device that records its calls.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::*;
use crate::counters::Counters;

#[derive(Debug, Default)]
struct Record {
    activated: AtomicU32,
    resets: AtomicU32,
}

#[derive(Debug)]
struct Fake(Arc<Record>);

impl Device for Fake {
    fn device_type(&self) -> u32 {
        4
    }
    fn features(&self) -> u64 {
        1 << 9
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }
    fn config(&self) -> &[u8] {
        b"config"
    }
    fn activate(&mut self, activation: Activation) {
        assert_eq!(activation.queues.len(), 2);
        self.0.activated.fetch_add(1, Ordering::SeqCst);
    }
    fn reset(&mut self) {
        self.0.resets.fetch_add(1, Ordering::SeqCst);
    }
}

fn transport() -> (Transport, Arc<Record>) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let interrupt = Interrupt::new(Arc::new(Counters::new().unwrap())).unwrap();
    let record = Arc::new(Record::default());
    (Transport::new(Box::new(Fake(Arc::clone(&record))), memory, interrupt).unwrap(), record)
}

fn get(transport: &Transport, offset: u64) -> u32 {
    let mut data = [0; 4];
    transport.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn set(transport: &mut Transport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

/// The steps of a well-behaved driver, up to DRIVER_OK.
fn negotiate(transport: &mut Transport, features: u64) {
    set(transport, REG_STATUS, 1);
    set(transport, REG_STATUS, 3);
    for half in [0, 1] {
        set(transport, REG_DRIVER_FEATURES_SEL, half);
        set(transport, REG_DRIVER_FEATURES, low(features >> (32 * half)));
    }
    set(transport, REG_STATUS, 11);
}

fn set_up_queues(transport: &mut Transport) {
    for queue in [0, 1] {
        set(transport, REG_QUEUE_SEL, queue);
        set(transport, REG_QUEUE_NUM, 8);
        let base = 0x1000 * (queue + 1);
        set(transport, REG_QUEUE_DESC_LOW, base);
        set(transport, REG_QUEUE_DRIVER_LOW, base + 0x400);
        set(transport, REG_QUEUE_DEVICE_LOW, base + 0x800);
        set(transport, REG_QUEUE_READY, 1);
    }
}

#[test]
fn identity_and_configuration_can_be_read() {
    let (mut transport, _) = transport();
    assert_eq!(get(&transport, REG_MAGIC), MAGIC);
    assert_eq!(get(&transport, REG_VERSION), 2);
    assert_eq!(get(&transport, REG_DEVICE_ID), 4);
    set(&mut transport, REG_DEVICE_FEATURES_SEL, 1);
    assert_eq!(get(&transport, REG_DEVICE_FEATURES), 1);
    set(&mut transport, REG_DEVICE_FEATURES_SEL, 2);
    assert_eq!(get(&transport, REG_DEVICE_FEATURES), 0);
    let mut config = [0xff; 8];
    transport.read(REG_CONFIG, &mut config);
    assert_eq!(&config, b"config\0\0");
    let mut beyond = [0xff; 2];
    transport.read(u64::MAX - 1, &mut beyond);
    assert_eq!(beyond, [0, 0]);
}

#[test]
fn a_good_driver_gets_its_device_and_can_reset_it() {
    let (mut transport, record) = transport();
    negotiate(&mut transport, F_VERSION_1 | 1 << 9);
    assert_eq!(get(&transport, REG_STATUS), 11);
    set_up_queues(&mut transport);
    set(&mut transport, REG_STATUS, 15);
    assert_eq!(get(&transport, REG_STATUS), 15);
    assert_eq!(record.activated.load(Ordering::SeqCst), 1);
    set(&mut transport, REG_STATUS, 15);
    assert_eq!(record.activated.load(Ordering::SeqCst), 1, "only the first DRIVER_OK counts");
    set(&mut transport, REG_STATUS, 0);
    assert_eq!(record.resets.load(Ordering::SeqCst), 1);
    assert_eq!(get(&transport, REG_STATUS), 0);
    negotiate(&mut transport, F_VERSION_1);
    set_up_queues(&mut transport);
    set(&mut transport, REG_STATUS, 15);
    assert_eq!(record.activated.load(Ordering::SeqCst), 2);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for features in [F_VERSION_1 | 1 << 10, 1 << 9, 0, u64::MAX] {
        let (mut transport, record) = transport();
        negotiate(&mut transport, features);
        assert_eq!(get(&transport, REG_STATUS), 3, "{features:#x}");
        set_up_queues(&mut transport);
        set(&mut transport, REG_STATUS, 15);
        assert_eq!(record.activated.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn rings_outside_of_memory_break_the_device_until_reset() {
    let (mut transport, record) = transport();
    negotiate(&mut transport, F_VERSION_1);
    set_up_queues(&mut transport);
    set(&mut transport, REG_QUEUE_DESC_HIGH, 1);
    set(&mut transport, REG_STATUS, 15);
    assert_eq!(get(&transport, REG_STATUS) & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
    assert_eq!(get(&transport, REG_INTERRUPT_STATUS), 2);
    assert_eq!(record.activated.load(Ordering::SeqCst), 0);
    set(&mut transport, REG_STATUS, 0);
    assert_eq!(get(&transport, REG_STATUS), 0);
}

#[test]
fn an_unmatched_notification_still_arrives() {
    let (mut transport, _) = transport();
    set(&mut transport, REG_QUEUE_NOTIFY, 1);
    set(&mut transport, REG_QUEUE_NOTIFY, 7);
    assert!(transport.notify_events()[1].read().is_ok());
    assert!(transport.notify_events()[0].read().is_err());
}

proptest! {
    /// Random accesses in any order do not panic, and do not give the worker rings outside of
    /// memory (the fake accepts anything, so the test checks that what it got was valid).
    #[test]
    fn rubbish_is_survived(
        writes in prop::collection::vec((0u64..0x110, any::<u32>(), 0usize..9), 0..200),
    ) {
        let (mut transport, record) = transport();
        for (offset, value, len) in writes {
            let mut data = [0; 8];
            transport.read(offset, &mut data[..len]);
            let value = u64::from(value).to_le_bytes();
            transport.write(offset & !3, &value[..len]);
        }
        let active = record.activated.load(Ordering::SeqCst);
        let resets = record.resets.load(Ordering::SeqCst);
        prop_assert!(active == resets || active == resets + 1);
    }
}
