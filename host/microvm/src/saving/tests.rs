//! Tests of the files of a saved machine.

use proptest::prelude::*;

use super::*;
use crate::memory;

const MIB: u64 = 1 << 20;

fn state() -> MachineState {
    let vcpus = vec![VcpuState::default(), VcpuState::default()];
    MachineState { version: VERSION, memory_bytes: 512 * MIB, vcpus, ..MachineState::default() }
}

fn text(state: &MachineState) -> Vec<u8> {
    let file = tempfile::tempfile().unwrap();
    state.write(&file).unwrap();
    let mut text = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut text, 0).unwrap();
    text
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let text = text(&state());
    let again = MachineState::parse(&text).unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), text);
    assert!(again.check_shape(2, 512 * MIB, 0).is_ok());
    for (vcpus, mib, slots) in [(1, 512, 0), (2, 511, 0), (2, 512, 1)] {
        let error = again.check_shape(vcpus, mib * MIB, slots).unwrap_err();
        assert!(error.to_string().contains("2 processors, 512 MiB"), "{error}");
    }
}

#[test]
fn the_largest_machine_stays_far_below_the_limit() {
    let vcpus = (0..16).map(|_| VcpuState::default()).collect();
    let largest = MachineState { vcpus, ..state() };
    assert!((text(&largest).len() as u64) < STATE_MAX_BYTES / 4);
}

#[test]
fn other_versions_and_nonsense_are_errors() {
    let good = String::from_utf8(text(&state())).unwrap();
    let other = good.replacen("\"version\":1", "\"version\":2", 1);
    let error = MachineState::parse(other.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    let more = good.replacen('{', "{\"unknown\":1,", 1);
    let twice = format!("{good}{good}");
    for bad in ["", "{}", "[]", "null", "{\"version\":1}", "\u{0}\u{0}", &more, &twice] {
        assert!(MachineState::parse(bad.as_bytes()).is_err(), "{bad:.40}");
    }
    let endless = tempfile::tempfile().unwrap();
    endless.set_len(STATE_MAX_BYTES + 1).unwrap();
    assert!(matches!(MachineState::read(&endless), Err(SavingError::Malformed(_))));
}

#[test]
fn no_list_of_a_state_is_longer_than_any_machine_needs() {
    /// A few times the longest text.
    const MEMORY_MAX_BYTES: u64 = 16 << 20;
    let good = serde_json::to_value(state()).unwrap();
    let mut small = good["vcpus"][0].clone();
    for (_, value) in small.as_object_mut().unwrap().iter_mut().filter(|(_, v)| v.is_array()) {
        *value = serde_json::json!([]); // KVM's structures are filled up with zeros
    }
    let long = |part: &str, list: &str, item: &serde_json::Value| {
        let item = item.to_string();
        let count = usize::try_from(STATE_MAX_BYTES).unwrap() / (item.len() + 1) - 100;
        let items = vec![item.as_str(); count].join(",");
        let mut text = good.clone();
        *text.pointer_mut(part).unwrap() = serde_json::json!("HERE");
        (format!("{list} {count}"), text.to_string().replace("\"HERE\"", &format!("[{items}]")))
    };
    for (name, text) in [
        long("/vcpus", "vcpus", &small),
        long("/vcpus/0/msrs", "msrs", &serde_json::json!([0, 0])),
        long("/slots", "slots", &serde_json::json!({})),
    ] {
        memory_bound::within(MEMORY_MAX_BYTES, || {
            assert!(MachineState::parse(text.as_bytes()).is_err(), "{name}");
        });
    }
}

#[test]
fn memory_is_restored_without_its_zeros() {
    let bytes = 3 * 1024 * MIB + 8 * MIB;
    let first = memory::create(bytes).unwrap();
    let places = [0, 5 * MIB + 123, 3 * 1024 * MIB - 1, 4096 * MIB, 4104 * MIB - 2];
    for place in places {
        first.write_obj(7u8, GuestAddress(place)).unwrap();
    }
    let file = tempfile::tempfile().unwrap();
    write_memory(&first, &file).unwrap();
    let data: u64 = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512;
    assert!((1..=places.len() as u64 * 64 * 1024).contains(&data), "{data} bytes in the file");

    let second = memory::restore(bytes, &file).unwrap();
    let third = memory::restore(bytes, &file).unwrap();
    for place in places {
        assert_eq!(second.read_obj::<u8>(GuestAddress(place)).unwrap(), 7);
    }
    for zero in [1, 6 * MIB, 4096 * MIB + 4096] {
        assert_eq!(second.read_obj::<u8>(GuestAddress(zero)).unwrap(), 0);
    }
    // What one machine writes, neither the file nor another machine sees.
    second.write_obj(9u8, GuestAddress(0)).unwrap();
    second.write_obj(9u8, GuestAddress(6 * MIB)).unwrap();
    assert_eq!(third.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
    assert_eq!(third.read_obj::<u8>(GuestAddress(6 * MIB)).unwrap(), 0);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [7]);
    assert!(memory::restore(bytes + MIB, &file).is_err());
}

#[test]
fn a_machine_without_data_has_no_file_in_its_memory() {
    let file = tempfile::tempfile().unwrap();
    write_memory(&memory::create(4 * MIB).unwrap(), &file).unwrap();
    assert_eq!(sparse::next_data(&file, 0).unwrap(), None);
    let memory = memory::restore(4 * MIB, &file).unwrap();
    assert_eq!(memory.read_obj::<u64>(GuestAddress(2 * MIB)).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Cut, and with bytes that are others, a state is refused or accepted without a panic.
    #[test]
    fn damaged_states_are_survived(
        cut in prop::option::of(any::<prop::sample::Index>()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut text = text(&state());
        for (place, byte) in damage {
            let place = place.index(text.len());
            text[place] = byte;
        }
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        fuzz(&text);
    }
}
