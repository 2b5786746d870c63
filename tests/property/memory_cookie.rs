//! The sealed cookie.

use homing::affinity::cookie::{KeyRing, Opened, OwnCookies, Stripped, strip_cookie};
use homing::affinity::key::cookies::cookie_pairs;
use homing::affinity::{KeyHash, Timestamp};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_opened_cookie_holds_what_was_sealed(
        keys in prop::collection::vec(any::<[u8; 32]>(), 1..4),
        upstream in "[a-z]{1,3}",
        other in "[a-z]{1,3}",
        backend in "[A-Za-z0-9._:/-]{1,64}",
        key in any::<Option<u64>>(),
        times in any::<[u32; 3]>(),
    ) {
        let [issued, bound, last_seen] = times.map(Timestamp);
        let sealed =
            Opened { backend: backend.parse().unwrap(), key: key.map(KeyHash), early: false, issued, bound, last_seen };
        let value = KeyRing::new(&keys).seal(&upstream, &sealed);
        let mut reversed = keys;
        reversed.reverse();
        let opened = KeyRing::new(&reversed).open(&upstream, value.as_bytes()).unwrap();
        prop_assert_eq!(opened, sealed);
        prop_assert_eq!(KeyRing::new(&reversed).open(&other, value.as_bytes()).is_ok(), other == upstream);
    }

    #[test]
    fn bytes_that_were_not_sealed_do_not_open(value in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(KeyRing::new(&[[1; 32]]).open("web", &value).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn stripping_removes_our_cookie_and_keeps_the_others(line in "[Hab=;\" ]{0,24}") {
        let ours = |name: &[u8]| name == b"H";
        let others: Vec<_> = cookie_pairs(line.as_bytes()).filter(|pair| !ours(pair.name)).collect();
        let present = cookie_pairs(line.as_bytes()).any(|pair| ours(pair.name));
        let mut out = Vec::new();
        let stripped = strip_cookie(&mut out, line.as_bytes(), ours, OwnCookies::ALL, &mut 0);
        prop_assert_eq!(stripped == Stripped::Unchanged, !present);
        match stripped {
            Stripped::Changed => {
                prop_assert_eq!(cookie_pairs(&out).collect::<Vec<_>>(), others);
                // Byte for byte the pieces that are not ours, without the leading space.
                let pieces: Vec<_> = line
                    .split(';')
                    .filter(|piece| piece.split_once('=').is_none_or(|(name, _)| name.trim() != "H"))
                    .collect();
                let expected = pieces.join(";");
                prop_assert_eq!(out, expected.trim_start().as_bytes());
            }
            Stripped::Empty => prop_assert!(others.is_empty() && out.is_empty()),
            Stripped::Unchanged => prop_assert!(out.is_empty()),
        }
    }
}
