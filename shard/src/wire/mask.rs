//! RFC 6455 §5.3 masking: XOR with four repeating bytes, in place or while copying.

/// Unmasks (or masks) `bytes` in place. `phase` is the offset of `bytes[0]` in the frame's payload;
/// only its value modulo 4 matters.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let key = rotated(mask, phase);
    let (wide, rest) = bytes.as_chunks_mut::<WIDE>();
    for chunk in wide {
        *chunk = xor(*chunk, repeat(key));
    }
    // A key of 4 bytes divides every chunk size, so each rest begins in phase again.
    let (half, rest) = rest.as_chunks_mut::<8>();
    for chunk in half {
        *chunk = xor(*chunk, repeat(key));
    }
    for (byte, key) in rest.iter_mut().zip(repeat::<8>(key)) {
        *byte ^= key;
    }
}

/// Copies `source` to `target` (of the same length), masking or unmasking in the same pass.
#[inline]
pub fn copy_masked(source: &[u8], target: &mut [u8], mask: [u8; 4], phase: usize) {
    assert_eq!(
        source.len(),
        target.len(),
        "both sides of a copy have one length"
    );
    let key = rotated(mask, phase);
    let (wide, rest) = source.as_chunks::<WIDE>();
    let (wide_out, rest_out) = target.as_chunks_mut::<WIDE>();
    for (from, to) in wide.iter().zip(wide_out) {
        *to = xor(*from, repeat(key));
    }
    let (half, rest) = rest.as_chunks::<8>();
    let (half_out, rest_out) = rest_out.as_chunks_mut::<8>();
    for (from, to) in half.iter().zip(half_out) {
        *to = xor(*from, repeat(key));
    }
    for ((from, to), key) in rest.iter().zip(rest_out).zip(repeat::<8>(key)) {
        *to = from ^ key;
    }
}

/// The mask as it looks from the payload byte at `phase` on.
#[inline]
pub(super) fn rotated(mask: [u8; 4], phase: usize) -> [u8; 4] {
    let bits = 8 * (phase % 4) as u32;
    u32::from_le_bytes(mask).rotate_right(bits).to_le_bytes()
}

/// Bytes per step of the main loop; two vector registers of the baseline target.
const WIDE: usize = 32;

#[inline]
fn repeat<const N: usize>(key: [u8; 4]) -> [u8; N] {
    std::array::from_fn(|i| key[i % 4])
}

#[inline]
fn xor<const N: usize>(bytes: [u8; N], key: [u8; N]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i] ^ key[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0xA1, 0x02, 0xFC, 0x3D];

    fn scalar(bytes: &[u8], mask: [u8; 4], phase: usize) -> Vec<u8> {
        bytes
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ mask[(phase + i) % 4])
            .collect()
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
