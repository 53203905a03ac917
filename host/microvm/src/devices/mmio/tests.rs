//! Tests of the register file with a fake device that records its calls.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;
use vm_memory::GuestAddress;

use serde_json::Value;

use super::{
    state::{TransportError, TransportState},
    *,
};
use crate::counters::Counters;

#[derive(Debug, Default)]
struct Record {
    activated: AtomicU32,
    resets: AtomicU32,
    /// Positions in the rings, available and used, at the last activation.
    positions: Mutex<Vec<(u16, u16)>>,
}

#[derive(Debug)]
struct Fake {
    record: Arc<Record>,
    queues: Vec<ActiveQueue>,
}

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
        self.record.activated.fetch_add(1, Ordering::SeqCst);
        let position = |active: &ActiveQueue| (active.queue.next_avail(), active.queue.next_used());
        *self.record.positions.lock().unwrap() = activation.queues.iter().map(position).collect();
        self.queues = activation.queues;
    }
    fn reset(&mut self) -> Vec<ActiveQueue> {
        self.record.resets.fetch_add(1, Ordering::SeqCst);
        for active in &mut self.queues {
            // It has served some requests.
            active.queue.set_next_avail(7);
            active.queue.set_next_used(5);
        }
        std::mem::take(&mut self.queues)
    }
}

fn transport() -> (Transport, Arc<Record>) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let interrupt = Interrupt::new(Arc::new(Counters::new().unwrap())).unwrap();
    let record = Arc::new(Record::default());
    let device = Fake { record: Arc::clone(&record), queues: Vec::new() };
    (Transport::new(Box::new(device), memory, interrupt).unwrap(), record)
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

/// A running device with an interrupt that the driver has not acknowledged, saved.
fn saved() -> TransportState {
    let (mut transport, _) = transport();
    negotiate(&mut transport, F_VERSION_1 | F_EVENT_IDX | 1 << 9);
    set_up_queues(&mut transport);
    set(&mut transport, REG_STATUS, 15);
    transport.interrupt.used_always();
    transport.save()
}

/// A saved state as another program might have written it.
fn changed(state: &TransportState, change: impl FnOnce(&mut Value)) -> TransportState {
    let mut value = serde_json::to_value(state).unwrap();
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_running_device_goes_on_where_it_was() {
    let state = changed(&saved(), |_| {});
    assert_eq!(state, saved());
    let (mut transport, record) = transport();
    transport.restore(&state).unwrap();
    assert_eq!(get(&transport, REG_STATUS), 15);
    assert_eq!(get(&transport, REG_INTERRUPT_STATUS), 1);
    assert!(transport.interrupt.line().read().is_ok(), "the interrupt is raised again");
    assert_eq!(*record.positions.lock().unwrap(), [(7, 5), (7, 5)]);
    assert_eq!(transport.save(), state);
    set(&mut transport, REG_STATUS, 0);
    assert_eq!(get(&transport, REG_STATUS), 0);
}

#[test]
fn a_device_without_a_driver_may_become_another_one() {
    let (mut before, _) = transport();
    set(&mut before, REG_STATUS, 1);
    let state = before.save();
    let (mut transport, record) = transport();
    transport.restore(&state).unwrap();
    assert_eq!(get(&transport, REG_STATUS), 1);
    assert!(transport.interrupt.line().read().is_err(), "nothing to tell");
    negotiate(&mut transport, F_VERSION_1);
    set_up_queues(&mut transport);
    set(&mut transport, REG_STATUS, 15);
    assert_eq!(record.activated.load(Ordering::SeqCst), 1);
}

#[test]
fn a_driver_may_be_saved_while_it_begins() {
    let (mut before, _) = transport();
    negotiate(&mut before, F_VERSION_1);
    set_up_queues(&mut before);
    let state = before.save();
    let (mut transport, record) = transport();
    transport.restore(&state).unwrap();
    assert_eq!(record.activated.load(Ordering::SeqCst), 0);
    assert_eq!(get(&transport, REG_QUEUE_READY), 1);
    set(&mut transport, REG_STATUS, 15);
    assert_eq!(record.activated.load(Ordering::SeqCst), 1);
}

#[test]
fn impossible_states_are_refused() {
    let state = saved();
    let refused = |change: fn(&mut Value)| {
        let (mut transport, record) = transport();
        let error = transport.restore(&changed(&state, change)).unwrap_err();
        assert_eq!(record.activated.load(Ordering::SeqCst), 0);
        error
    };
    assert_eq!(refused(|s| s["device_type"] = 2.into()), TransportError::OtherDevice);
    assert_eq!(
        refused(|s| drop(s["queues"].as_array_mut().unwrap().pop())),
        TransportError::OtherDevice
    );
    assert_eq!(refused(|s| s["queues"][0]["max_size"] = 32.into()), TransportError::OtherDevice);
    assert_eq!(refused(|s| s["driver_features"] = u64::MAX.into()), TransportError::Features);
    assert_eq!(refused(|s| s["status"] = 0x4f.into()), TransportError::Register);
    assert_eq!(refused(|s| s["status"] = 0x1000.into()), TransportError::Register);
    assert_eq!(refused(|s| s["status"] = 11.into()), TransportError::Register);
    assert_eq!(refused(|s| s["interrupt_status"] = 4.into()), TransportError::Register);
    for (field, value) in [
        ("max_size", 0u64),
        ("max_size", 3),
        ("size", 0),
        ("size", 32),
        ("desc_table", 8),
        ("desc_table", 1 << 40),
        ("avail_ring", 0xfffe),
        ("used_ring", !3),
    ] {
        let (mut transport, _) = transport();
        let state = changed(&state, |s| s["queues"][1][field] = value.into());
        assert_eq!(transport.restore(&state), Err(TransportError::Queue), "{field} {value:#x}");
    }
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
