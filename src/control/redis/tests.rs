//! Text of faults; the talk with a server is tested with a real one (`tests/session_store`).

use super::*;

#[test]
fn what_a_command_says_within_a_script_is_told_apart_too() {
    let of = |code: &str, text: &str| Fault::of_code(code, text.to_owned());
    assert_eq!(of("READONLY", "READONLY You can't write"), Fault::ReadOnly);
    assert_eq!(of("ERR", "ERR READONLY You can't write script: 1"), Fault::ReadOnly);
    assert_eq!(of("ERR", "ERR OOM command not allowed when used memory"), Fault::OutOfMemory);
    assert_eq!(of("NOSCRIPT", "NOSCRIPT No matching script"), Fault::NoScript);
    assert!(matches!(of("ERR", "ERR user_script:1: x"), Fault::Server(_)));
}

#[test]
fn a_script_is_named_as_the_server_names_it() {
    // As `SCRIPT LOAD "return 1"` answers.
    assert_eq!(Script::digest_of("return 1"), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
}
