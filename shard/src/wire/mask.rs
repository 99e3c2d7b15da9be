//! RFC 6455 §5.3 masking: XOR with four repeating bytes, in place or while copying.

/// Unmasks (or masks) `bytes` in place. `phase` is the offset of `bytes[0]` in the frame's payload;
/// only its value modulo 4 matters.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let key = rotated(mask, phase);
    match bytes.len() {
        0..4 => bytes.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key),
        4..8 => unmask_by::<4>(bytes, key),
        8..16 => unmask_by::<8>(bytes, key),
        _ => unmask_by::<16>(bytes, key),
    }
}

/// Copies `source` to `target` (of the same length), masking or unmasking in the same pass.
#[inline]
pub fn copy_masked(source: &[u8], target: &mut [u8], mask: [u8; 4], phase: usize) {
    assert_eq!(source.len(), target.len(), "both sides of a copy have one length");
    let key = rotated(mask, phase);
    match source.len() {
        0..4 => {
            let masked = source.iter().zip(key).map(|(byte, key)| byte ^ key);
            target.iter_mut().zip(masked).for_each(|(to, byte)| *to = byte);
        }
        4..8 => copy_by::<4>(source, target, key),
        8..16 => copy_by::<8>(source, target, key),
        _ => copy_by::<16>(source, target, key),
    }
}

/// In steps of `N` bytes; the last step overlaps the one before, so no tail is left for single
/// bytes. `N` is a multiple of the key's length and at most `bytes.len()`.
#[inline]
fn unmask_by<const N: usize>(bytes: &mut [u8], key: [u8; 4]) {
    let last_key = rotated(key, bytes.len());
    // Taken before the steps in front of it change a part of it.
    let last = bytes.last_chunk::<N>().map(|last| xor(*last, last_key));
    for step in bytes.as_chunks_mut::<N>().0 {
        *step = xor(*step, key);
    }
    if let (Some(place), Some(last)) = (bytes.last_chunk_mut(), last) {
        *place = last;
    }
}

/// As [`unmask_by`].
#[inline]
fn copy_by<const N: usize>(source: &[u8], target: &mut [u8], key: [u8; 4]) {
    let last_key = rotated(key, source.len());
    for (from, to) in source.as_chunks::<N>().0.iter().zip(target.as_chunks_mut::<N>().0) {
        *to = xor(*from, key);
    }
    if let (Some(from), Some(to)) = (source.last_chunk::<N>(), target.last_chunk_mut::<N>()) {
        *to = xor(*from, last_key);
    }
}

/// The mask as it looks from the payload byte at `phase` on.
#[inline]
pub(super) fn rotated(mask: [u8; 4], phase: usize) -> [u8; 4] {
    let bits = 8 * (phase % 4) as u32;
    u32::from_le_bytes(mask).rotate_right(bits).to_le_bytes()
}

#[inline]
fn xor<const N: usize>(bytes: [u8; N], key: [u8; 4]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i] ^ key[i % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0xA1, 0x02, 0xFC, 0x3D];

    fn scalar(bytes: &[u8], mask: [u8; 4], phase: usize) -> Vec<u8> {
        bytes.iter().enumerate().map(|(i, byte)| byte ^ mask[(phase + i) % 4]).collect()
    }

    #[test]
    fn every_alignment_length_and_phase_equals_the_scalar_reference() {
        let plain: Vec<u8> = (0..400u32).map(|i| (i * 7 + i / 13) as u8).collect();
        let mut bytes = plain.clone();
        let mut copy = vec![0; plain.len()];
        for start in 0..16 {
            for len in 0..=300 {
                for phase in 0..5 {
                    let at = start..start + len;
                    let expected = scalar(&plain[at.clone()], MASK, phase);
                    unmask(&mut bytes[at.clone()], MASK, phase);
                    assert_eq!(bytes[at.clone()], expected, "{start} {len} {phase}");
                    assert_eq!(bytes[..start], plain[..start]);
                    assert_eq!(bytes[start + len..], plain[start + len..]);
                    bytes[at.clone()].copy_from_slice(&plain[at.clone()]);
                    let target = &mut copy[(start + 3) % 16..][..len];
                    copy_masked(&plain[at], target, MASK, phase);
                    assert_eq!(target, expected, "copy {start} {len} {phase}");
                }
            }
        }
    }

    #[test]
    fn the_example_of_rfc_6455_section_5_7_unmasks_to_hello() {
        let mut bytes = [0x7F, 0x9F, 0x4D, 0x51, 0x58];
        unmask(&mut bytes, [0x37, 0xFA, 0x21, 0x3D], 0);
        assert_eq!(&bytes, b"Hello");
    }

    #[test]
    fn a_payload_cut_anywhere_unmasks_as_the_whole() {
        let plain: Vec<u8> = (0..100).collect();
        for cut in 0..=plain.len() {
            let mut bytes = scalar(&plain, MASK, 0);
            let (front, back) = bytes.split_at_mut(cut);
            unmask(front, MASK, 0);
            unmask(back, rotated(MASK, cut), 0);
            assert_eq!(bytes, plain, "cut at {cut}");
        }
    }
}
