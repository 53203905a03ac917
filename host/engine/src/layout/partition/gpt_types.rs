//! Types of GPT partitions, by the codes that recipes use.

use uuid::Uuid;

/// The GUIDs of the sgdisk codes (sgdisk(8), `-L`) for partitions of Linux and of its boot loaders.
/// Any other type must be given as a GUID.
const GPT_TYPES: &[(&str, &str)] = &[
    ("0700", "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
    ("0C01", "e3c9e316-0b5c-4db8-817d-f92df00215ae"),
    ("2700", "de94bba4-06d1-4d40-a16a-bfd50179d6ac"),
    ("4100", "9e1a2d38-c612-4316-aa26-8b49521e5a8b"),
    ("7F00", "fe3a2a5d-4f32-41a7-b725-accc3285a309"),
    ("7F01", "3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec"),
    ("8200", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
    ("8300", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ("8301", "8da63339-0007-60c0-c436-083ac8230908"),
    ("8302", "933ac7e1-2eb4-4f13-b844-0e14e2aef915"),
    ("8303", "44479540-f297-41b2-9af7-d131d5f0458a"),
    ("8304", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    ("8305", "b921b045-1df0-41c3-af44-4c6f280d3fae"),
    ("8306", "3b8f8425-20e0-4f3b-907f-1a25a76f98e8"),
    ("8307", "69dad710-2ce4-4e3c-b16c-21a1d49abed3"),
    ("8308", "7ffec5c9-2d00-49b7-8941-3ea10a5586b7"),
    ("8309", "ca7d7ccb-63ed-4c53-861c-1742536059cc"),
    ("830A", "993d8d3d-f80e-4225-855a-9daf8ed7ea97"),
    ("830B", "d13c5d3b-b5d1-422a-b29f-9454fdc89d76"),
    ("830C", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    ("830D", "7386cdf2-203c-47a9-a498-f2ecce45a2d6"),
    ("830E", "df3300ce-d69f-4c92-978c-9bfb0f38d820"),
    ("8310", "4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
    ("8311", "7ec6f557-3bc5-4aca-b293-16ef5df639d1"),
    ("8312", "773f91ef-66d4-49b5-bd83-d683bf40ad16"),
    ("8313", "75250d76-8cc6-458e-bd66-bd47cc81a812"),
    ("8314", "8484680c-9521-48c6-9c11-b0720656f69e"),
    ("8315", "7d0359a3-02b3-4f0a-865c-654403e70625"),
    ("8316", "b0e01050-ee5f-4390-949a-9101b17104e9"),
    ("8E00", "e6d6d379-f507-44c2-a23c-238f2a3df928"),
    ("A502", "516e7cb5-6ecf-11d6-8ff8-00022d09712b"),
    ("A503", "516e7cb6-6ecf-11d6-8ff8-00022d09712b"),
    ("AF00", "48465300-0000-11aa-aa11-00306543ecac"),
    ("BF01", "6a898cc3-1dd2-11b2-99a6-080020736631"),
    ("EA00", "bc13c2ff-59e6-4262-a352-b275fd6f7172"),
    ("EF00", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ("EF01", "024dee41-33e7-11d3-9d69-0008c781f39f"),
    ("EF02", "21686148-6449-6e6f-744e-656564454649"),
    ("FD00", "a19d880f-05fc-4d3b-a006-743f0f84911e"),
];

/// Returns the GUID of a type code; `None` if the code is not valid.
pub(super) fn guid(code: &str) -> Option<Uuid> {
    let code = match code.to_ascii_uppercase().as_str() {
        "" | "83" => "8300".to_owned(),
        code => code.to_owned(),
    };
    let known = GPT_TYPES.iter().find(|(known, _)| *known == code);
    Uuid::parse_str(known.map_or(code.as_str(), |(_, guid)| *guid)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_guid_of_its_own() {
        let mut guids: Vec<Uuid> = GPT_TYPES.iter().map(|(code, _)| guid(code).unwrap()).collect();
        guids.sort_unstable();
        guids.dedup();
        assert_eq!(guids.len(), GPT_TYPES.len());
        assert_eq!(guid("ef00"), guid("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"));
        assert_eq!(guid("83"), guid("8300"));
        assert_eq!(guid("448"), None);
    }
}
