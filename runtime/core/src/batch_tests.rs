//! Tests of the batch encoding: its layout, every refusal by name, and round trips.

use proptest::prelude::*;

use super::*;

fn sample() -> Batch {
    let inner = encode(7, [Unit::single(Bytes::from_static(b"inner"))].iter());
    Batch {
        time_ms: 1_700_000_000_123,
        units: vec![
            Unit::single(Bytes::new()),
            Unit { atomic: true, commands: vec![inner, Bytes::from_static(b"\x01\0\xff")] },
            Unit { atomic: false, commands: vec![Bytes::from(vec![0x80; 200])] },
        ],
    }
}

fn encoded(batch: &Batch) -> Bytes {
    encode(batch.time_ms, batch.units.iter())
}

/// Bytes with a correct checksum around an arbitrary body, as an attacker would write them.
fn sealed(body: &[u8]) -> Bytes {
    let mut raw = vec![BATCH_VERSION, CODEC_NONE, 0, 0, 0, 0];
    raw.extend_from_slice(&[0; 8]);
    raw.extend_from_slice(body);
    let crc = checksum(&raw);
    raw[CRC_OFFSET..TIME_OFFSET].copy_from_slice(&crc.to_le_bytes());
    Bytes::from(raw)
}

/// Goal: the layout is the documented one, for ever. Method: the smallest batch, in full.
#[test]
fn layout_is_pinned() {
    let unit = Unit { atomic: true, commands: vec![Bytes::from_static(b"ab")] };
    let raw = encode(0x0102, [unit].iter());
    assert_eq!(&raw[..2], [1, 0]);
    assert_eq!(&raw[6..], [2, 1, 0, 0, 0, 0, 0, 0, 1, 3, 2, b'a', b'b']);
    assert_eq!(raw[2..6], checksum(&raw).to_le_bytes());
}

/// Goal: decoding copies nothing. Method: the commands lie within the input's memory.
#[test]
fn commands_are_slices_of_the_input() {
    let raw = encoded(&sample());
    let within = raw.as_ptr_range();
    for command in decode(raw.clone()).expect("valid").units.iter().flat_map(|u| &u.commands) {
        assert!(command.is_empty() || within.contains(&command.as_ptr()));
    }
}

/// Goal: no part of a batch is a batch. Method: cut at every byte, and add one.
#[test]
fn truncation_at_every_byte_is_refused() {
    let raw = encoded(&sample());
    for len in 0..raw.len() {
        assert!(decode(raw.slice(..len)).is_err(), "{len} of {} bytes", raw.len());
    }
    let longer = [&raw[..], &[0]].concat();
    assert!(decode(Bytes::from(longer)).is_err());
}

/// Goal: no single damaged bit goes unseen. Method: flip each one.
#[test]
fn every_bit_flip_is_refused() {
    let raw = encoded(&sample());
    for bit in 0..raw.len() * 8 {
        let mut damaged = raw.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(Bytes::from(damaged)).is_err(), "bit {bit}");
    }
}

fn refused(body: &[u8]) -> BatchDecodeError {
    decode(sealed(body)).expect_err("nonsense")
}

#[test]
fn a_batch_has_at_least_one_unit() {
    assert_eq!(refused(&[0]), BatchDecodeError::Empty { offset: 15 });
}

#[test]
fn a_unit_has_at_least_one_command() {
    assert_eq!(refused(&[1, 0, 0]), BatchDecodeError::Empty { offset: 16 });
    assert_eq!(refused(&[1, 1, 0]), BatchDecodeError::Empty { offset: 16 }, "atomic or not");
}

#[test]
fn a_number_is_not_longer_than_needed() {
    assert_eq!(refused(&[0x81, 0, 2, 0]), BatchDecodeError::Varint { offset: 16 });
}

#[test]
fn a_number_of_more_than_32_bits_is_refused() {
    let beyond = [0x80, 0x80, 0x80, 0x80, 0x10];
    assert_eq!(refused(&beyond), BatchDecodeError::Varint { offset: 19 });
}

#[test]
fn a_number_that_does_not_end_is_refused() {
    assert_eq!(refused(&[0xff; 8]), BatchDecodeError::Varint { offset: 19 });
}

#[test]
fn a_number_that_ends_with_the_batch_is_truncated() {
    assert_eq!(refused(&[0x81]), BatchDecodeError::Truncated { bytes: 15 });
}

#[test]
fn nothing_follows_the_last_command() {
    assert_eq!(refused(&[1, 2, 0, 9, 9]), BatchDecodeError::Trailing { bytes: 2 });
}

#[test]
fn a_command_that_is_cut_short_is_truncated() {
    assert_eq!(refused(&[1, 2, 5, 1]), BatchDecodeError::Truncated { bytes: 18 });
}

#[test]
fn a_count_of_units_beyond_the_bytes_allocates_nothing() {
    assert_eq!(refused(&[200, 1, 2, 0]), BatchDecodeError::Truncated { bytes: 18 });
}

#[test]
fn a_count_of_commands_beyond_the_bytes_allocates_nothing() {
    assert_eq!(refused(&[1, 200, 1, 0]), BatchDecodeError::Truncated { bytes: 18 });
}

#[test]
fn one_command_too_many_is_refused() {
    let mut many = vec![1, 0x82, 0x80, 0x08];
    many.resize(many.len() + BATCH_COMMANDS_MAX + 1, 0);
    assert_eq!(refused(&many), BatchDecodeError::TooManyCommands);
}

#[test]
fn commands_are_counted_over_all_units() {
    let mut two = vec![2];
    for commands in [BATCH_COMMANDS_MAX, 1] {
        let mut header = BytesMut::new();
        put_varint(&mut header, commands * 2);
        two.extend_from_slice(&header);
        two.resize(two.len() + commands, 0);
    }
    assert_eq!(refused(&two), BatchDecodeError::TooManyCommands);
}

#[test]
fn as_many_commands_as_allowed_are_read() {
    let full = Unit { atomic: true, commands: vec![Bytes::new(); BATCH_COMMANDS_MAX] };
    let decoded = decode(encode(0, [full].iter())).expect("exactly the limit");
    assert_eq!(decoded.commands(), BATCH_COMMANDS_MAX);
}

#[test]
fn an_empty_entry_is_no_batch() {
    assert_eq!(decode(Bytes::new()), Err(BatchDecodeError::Truncated { bytes: 0 }));
}

#[test]
fn a_header_alone_is_truncated() {
    let header = sealed(&[]);
    assert_eq!(decode(header.slice(..13)), Err(BatchDecodeError::Truncated { bytes: 13 }));
    assert_eq!(decode(header), Err(BatchDecodeError::Truncated { bytes: 14 }));
}

#[test]
fn a_damaged_batch_tells_both_checksums() {
    let good = encoded(&sample());
    let mut damaged = good.to_vec();
    damaged[20] ^= 1;
    let stored = u32::from_le_bytes([good[2], good[3], good[4], good[5]]);
    let computed = checksum(&damaged);
    let error = decode(Bytes::from(damaged)).expect_err("damaged");
    assert_eq!(error, BatchDecodeError::Checksum { stored, computed });
    assert_ne!(stored, computed);
}

#[test]
fn an_unknown_codec_is_named() {
    let mut raw = encoded(&sample()).to_vec();
    raw[1] = 9;
    assert_eq!(decode(Bytes::from(raw)), Err(BatchDecodeError::UnknownCodec { codec: 9 }));
}

#[test]
fn an_unknown_version_is_named_before_all_else() {
    let mut raw = encoded(&sample()).to_vec();
    (raw[0], raw[1]) = (2, 9);
    assert_eq!(decode(Bytes::from(raw)), Err(BatchDecodeError::UnknownVersion { version: 2 }));
}

#[test]
fn each_refusal_says_what_it_found() {
    let texts = [
        BatchDecodeError::Truncated { bytes: 5 },
        BatchDecodeError::UnknownVersion { version: 2 },
        BatchDecodeError::UnknownCodec { codec: 3 },
        BatchDecodeError::Checksum { stored: 1, computed: 0xabc },
        BatchDecodeError::Varint { offset: 7 },
        BatchDecodeError::Empty { offset: 8 },
        BatchDecodeError::TooManyCommands,
        BatchDecodeError::Trailing { bytes: 4 },
    ]
    .map(|error| error.to_string());
    let expected = [
        "batch ends at byte 5, in the middle of a field",
        "batch version 2; this build reads 1",
        "batch codec 3 is unknown",
        "batch checksum 0x00000001 does not match its bytes, 0x00000abc",
        "batch has a malformed number before byte 7",
        "batch or unit without a command before byte 8",
        "batch of more than 65536 commands",
        "4 bytes follow the batch",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn a_length_takes_a_byte_per_seven_bits() {
    let lengths = [0, 127, 128, 16_383, 16_384, u32::MAX as usize].map(varint_len);
    assert_eq!(lengths, [1, 1, 2, 2, 3, 5]);
}

#[test]
fn a_unit_knows_its_size_in_a_batch() {
    let unit = |bytes: usize| Unit::single(vec![7; bytes].into());
    for unit in [unit(0), unit(127), unit(128), Unit { atomic: true, ..unit(16_384) }] {
        let alone = encode(0, [unit.clone()].iter());
        assert_eq!(unit.encoded_len(), alone.len() - UNITS_OFFSET - 1, "{}", alone.len());
    }
}

#[test]
fn a_batch_counts_the_commands_of_all_units() {
    assert_eq!(sample().commands(), 4);
}

#[test]
fn a_single_command_is_not_atomic() {
    let command = Bytes::from_static(b"x");
    let expected = Unit { atomic: false, commands: vec![command.clone()] };
    assert_eq!(Unit::single(command), expected);
}

#[test]
#[should_panic(expected = "at least one unit")]
fn encoding_nothing_is_a_bug() {
    encode(0, [].iter());
}

#[test]
#[should_panic(expected = "at least one command")]
fn encoding_an_empty_unit_is_a_bug() {
    encode(0, [Unit { atomic: false, commands: vec![] }].iter());
}

fn any_command() -> impl Strategy<Value = Bytes> {
    let raw = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let look_alike = raw.clone().prop_map(|b| encode(1, [Unit::single(b)].iter()));
    prop_oneof![raw, look_alike]
}

fn any_unit() -> impl Strategy<Value = Unit> {
    (any::<bool>(), proptest::collection::vec(any_command(), 1..6))
        .prop_map(|(atomic, commands)| Unit { atomic, commands })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Goal: what goes in comes out (BP-2). Method: random units, look-alikes among them.
    #[test]
    fn round_trips(
        time_ms in any::<u64>(),
        units in proptest::collection::vec(any_unit(), 1..10),
    ) {
        let raw = encode(time_ms, units.iter());
        prop_assert_eq!(decode(raw), Ok(Batch { time_ms, units }));
    }

    /// Goal: no input panics, and what decodes has one encoding only. Method: sealed noise.
    #[test]
    fn noise_never_panics_and_is_canonical(
        body in proptest::collection::vec(0u8..6, 0..40),
    ) {
        let raw = sealed(&body);
        if let Ok(batch) = decode(raw.clone()) {
            prop_assert_eq!(encoded(&batch), raw);
        }
        let _ = decode(Bytes::from(body));
    }
}

#[test]
fn a_count_of_four_billion_units_is_refused_before_it_is_trusted() {
    let most = [0xff, 0xff, 0xff, 0xff, 0x0f, 2, 0];
    assert_eq!(refused(&most), BatchDecodeError::Truncated { bytes: 21 });
}

#[test]
fn commands_that_are_not_there_are_missing_before_they_are_too_many() {
    let mut header = BytesMut::new();
    put_varint(&mut header, (BATCH_COMMANDS_MAX + 1) * 2);
    let body = [&[1][..], &header, &[0, 0]].concat();
    let bytes = UNITS_OFFSET + body.len();
    assert_eq!(refused(&body), BatchDecodeError::Truncated { bytes });
}

#[test]
fn numbers_of_every_length_are_read() {
    let read = |value| {
        let mut out = BytesMut::new();
        put_varint(&mut out, value);
        Reader { data: out.freeze(), at: 0 }.varint()
    };
    for value in [0, 127, 128, 16_383, 16_384, u32::MAX as usize] {
        assert_eq!(read(value), Ok(value));
    }
}
