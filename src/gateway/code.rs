//! The program's own code, brought into memory before it is needed.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};

use tracing::debug;

/// Maps every page of the running program, so that no client waits while the kernel finds, or reads
/// from a disk, the code that serves it. Reading through `/proc/self/mem` does what running would.
pub(super) fn bring_in() {
    if let Err(reason) = read_all() {
        debug!(%reason, "the program's code comes into memory as it is used");
    }
}

fn read_all() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut memory = File::open("/proc/self/mem")?;
    for mapping in fs::read_to_string("/proc/self/maps")?.lines() {
        let Some((start, end)) = of_program(mapping, &program.to_string_lossy()) else { continue };
        memory.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&memory).take(end - start), &mut io::sink())?;
    }
    Ok(())
}

/// The range of a mapping of `program` that is not written to.
fn of_program(mapping: &str, program: &str) -> Option<(u64, u64)> {
    let mut words = mapping.split_ascii_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    if !mapping.ends_with(program) || permissions.contains('w') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_constants_of_the_program_are_found_and_nothing_else() {
        let program = "/usr/local/bin/corelane";
        let code = "5555ac0fd000-5555ac67d000 r-xp 0019b000 08:01 1 /usr/local/bin/corelane";
        assert_eq!(of_program(code, program), Some((0x5555_ac0f_d000, 0x5555_ac67_d000)));
        let data = "5555ac67d000-5555ac6b2000 rw-p 0071a000 08:01 1 /usr/local/bin/corelane";
        assert_eq!(of_program(data, program), None);
        let library = "7f93640e1000-7f9364155000 r-xp 00010000 08:01 2 /usr/lib/libm.so.6";
        assert_eq!(of_program(library, program), None);
        assert_eq!(of_program("7f5c1c000000-7f5c1c021000 r--p 00000000 00:00 0", program), None);
    }

    #[test]
    fn a_program_can_read_itself() {
        read_all().unwrap();
    }
}
