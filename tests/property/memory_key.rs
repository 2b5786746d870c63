//! Keys, checked against simple and slow parsers.

use std::net::{IpAddr, Ipv4Addr};

use homing::affinity::client_ip::Mask;
use homing::affinity::key::{ClientIdentity, KeyContext, KeySource, RequestView, find_id, find_key};
use homing::affinity::learn::{LearnContext, Learned, ResponseView, cookie_date, learn};
use homing::affinity::table::Table;
use homing::affinity::{Seed, Timestamp};
use proptest::prelude::*;

pub(crate) struct Message {
    pub(crate) target: String,
    pub(crate) fields: Vec<(&'static str, Vec<u8>)>,
}

impl RequestView for Message {
    fn path_and_query(&self) -> &str {
        &self.target
    }
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.fields.iter().filter(move |field| field.0 == name).map(|field| field.1.as_slice())
    }
}

impl ResponseView for Message {
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        RequestView::field_values(self, name)
    }
}

fn context(table: Option<&Table>) -> KeyContext<'_> {
    KeyContext { seed: Seed(1), mask: Mask { v4: 32, v6: 64 }, table, now: Timestamp(1) }
}

fn learning(table: &Table) -> LearnContext<'_> {
    let namer = table.namer();
    LearnContext { seed: Seed(1), namer, default_path: namer.path(b"/"), now: Timestamp(1) }
}

fn not_empty(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

fn cookie_model<'a>(lines: &'a [String], name: &str) -> Option<&'a str> {
    let pairs = lines.iter().flat_map(|line| line.split(';')).filter_map(|piece| piece.split_once('='));
    pairs.filter(|pair| pair.0.trim_matches([' ', '\t']) == name).find_map(|pair| {
        let value = pair.1.trim_matches([' ', '\t']);
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        not_empty(inner.unwrap_or(value))
    })
}

fn query_model<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let pairs = target.split_once('?')?.1.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|pair| pair.0 == name).find_map(|pair| not_empty(pair.1))
}

fn path_param_model<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let path = target.split('?').next()?;
    let parameters = path.split('/').flat_map(|segment| segment.split(';').skip(1));
    parameters
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|pair| pair.0 == name)
        .find_map(|pair| not_empty(pair.1))
}

fn text(id: Option<&[u8]>) -> Option<&str> {
    id.map(|id| std::str::from_utf8(id).expect("UTF-8 input"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cookies_are_found_as_by_the_model(lines in prop::collection::vec("[ab=;\" \t]{0,20}", 0..3)) {
        let fields = lines.iter().map(|line| ("cookie", line.clone().into_bytes())).collect();
        let request = Message { target: "/".into(), fields };
        for name in ["a", "b", "ab"] {
            let found = KeySource::Cookie(name.into());
            prop_assert_eq!(text(find_id(&found, &request)), cookie_model(&lines, name));
        }
    }

    #[test]
    fn parameters_are_found_as_by_the_model(target in "/[ab=;/?&]{0,24}") {
        let request = Message { target: target.clone(), fields: Vec::new() };
        for name in ["a", "b", "ab"] {
            let query = KeySource::Query(name.into());
            prop_assert_eq!(text(find_id(&query, &request)), query_model(&target, name));
            let parameter = KeySource::PathParam(name.into());
            prop_assert_eq!(text(find_id(&parameter, &request)), path_param_model(&target, name));
        }
    }

    #[test]
    fn the_first_source_that_is_present_gives_the_key(present in prop::collection::vec(any::<bool>(), 1..6)) {
        let sources: Vec<_> = (0..present.len()).map(|n| KeySource::Query(format!("q{n}"))).collect();
        let pairs: Vec<_> = (0..present.len()).rev().filter(|n| present[*n]).map(|n| format!("q{n}=v")).collect();
        let request = Message { target: format!("/?{}", pairs.join("&")), fields: Vec::new() };
        let client = ClientIdentity { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), certificate: None };
        let found = find_key(&sources, context(None), &request, client);
        prop_assert_eq!(found.map(|found| found.source), present.iter().position(|present| *present));
    }

    #[test]
    fn a_learned_id_gives_the_key_of_the_next_request(
        id in "[!#-+\\--:<-\\[\\]-~]{1,40}",
        quoted in any::<bool>(),
        before in "[a-z]{0,5}",
    ) {
        let sources = [KeySource::Cookie("SID".into())];
        let value = if quoted { format!("\"{id}\"") } else { id };
        let response = Message {
            target: String::new(),
            fields: vec![
                ("set-cookie", format!("SID{before}x=1").into_bytes()),
                ("set-cookie", format!("SID={value}; Path=/; HttpOnly").into_bytes()),
            ],
        };
        let request = Message {
            target: "/".into(),
            fields: vec![("cookie", format!("{before}=1; SID={value}").into_bytes())],
        };
        let client = ClientIdentity { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), certificate: None };
        let table = Table::new(10, 60);
        let key = find_key(&sources, context(Some(&table)), &request, client).unwrap();
        let mut all = Vec::new();
        learn(&sources, learning(&table), &response, |learned| all.push(learned));
        prop_assert_eq!(all, [Learned::Bind { key, scope: table.namer().root_scope() }]);
    }

    #[test]
    fn no_set_cookie_or_date_panics(line in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = cookie_date(&line);
        let line = [b"SID=x; Expires=".as_slice(), &line].concat();
        let response = Message { target: String::new(), fields: vec![("set-cookie", line)] };
        let table = Table::new(10, 60);
        learn(&[KeySource::Cookie("SID".into())], learning(&table), &response, |_| {});
    }
}
