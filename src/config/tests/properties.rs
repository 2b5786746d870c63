//! Property tests of the parser.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// Returns all test configurations and `proxy.toml` with everything uncommented.
fn corpus() -> Vec<String> {
    let mut texts: Vec<String> =
        configs("valid").into_iter().chain(configs("invalid")).map(|(_, text)| text).collect();
    texts.push(everything_on(&fs::read_to_string(root().join("proxy.toml")).unwrap()));
    texts
}

/// Parses a text and renders its diagnostics. Neither may panic, and a failure must
/// report an error.
fn exercise(text: &str) {
    match parse_sealed_off(text, "x.toml", SECRET) {
        Ok(loaded) => drop(render_all(&loaded.warnings, true)),
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0);
            assert!(!diagnostics.render(true).is_empty());
            for diagnostic in diagnostics.iter() {
                assert!(diagnostic.line().unwrap_or(1) <= text.matches('\n').count() + 1);
            }
        }
    }
}

/// An edit of a text: position, number of characters to remove, text to insert.
type Edit = (Index, usize, String);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let pieces = select(vec![
        "",
        "\"",
        "'",
        "\n",
        "\r\n",
        "\t",
        "=",
        "[",
        "]",
        "[[",
        "{",
        "}",
        ",",
        ".",
        "#",
        "\\",
        "é",
        "🦀",
        "\u{202e}",
        "\0",
        "-1",
        "0",
        "99999999999999999999999",
        "1.5",
        "nan",
        "-inf",
        "true",
        "false",
        "[]",
        "{}",
        "\"\"",
        "\"0s\"",
        "\"1d\"",
        "1979-05-27",
        "\"::\"",
        "\"[::1]:1\"",
        "\"%\"",
        "\"*\"",
        "\"\\u0000\"",
    ]);
    vec((any::<Index>(), 0usize..12, pieces.prop_map(str::to_owned)), 1..6)
}

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, out, put) in edits {
        let at = at.index(chars.len() + 1);
        let end = (at + out).min(chars.len());
        chars.splice(at..end, put.chars());
    }
    chars.into_iter().collect()
}

/// Generates values of any type, close to valid ones and far off.
fn values() -> impl Strategy<Value = String> {
    let words = select(vec![
        "true",
        "false",
        "0",
        "-1",
        "1",
        "300",
        "99999999999999999999999999999999999999999",
        "0x7f",
        "1e400",
        "1.25",
        "nan",
        "inf",
        "-0.0",
        "1979-05-27",
        "07:32:00",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[1, \"a\"]",
        "{ path = 1 }",
        "''",
        "'0s'",
        "'18446744073709551615d'",
        "'16777216TiB'",
        "'100%'",
        "'%'",
        "'*.'",
        "'*'",
        "'[::]:0'",
        "'::1'",
        "'['",
        "']'",
        "':'",
        "'://'",
        "'cookie:'",
        "'1-'",
        "'-'",
        "'/*'",
        "'é'",
        "\"\\u0000\"",
        "'none'",
        "'off'",
        "'auto'",
        "'''a\nb'''",
    ]);
    prop_oneof![
        words.prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}").replace("NaN", "nan")),
        "[ -&(-~]{0,12}".prop_map(|text| format!("'{text}'")),
        "[0-9]{1,4}(ms|s|m|h|d|KiB|MiB|%|)".prop_map(|text| format!("\"{text}\"")),
    ]
}

/// Replaces the value of the `n`th setting.
fn with_value(text: &str, n: Index, value: &str) -> String {
    let settings: Vec<usize> =
        text.lines().enumerate().filter(|(_, line)| line.contains(" = ")).map(|(at, _)| at).collect();
    let Some(chosen) = (!settings.is_empty()).then(|| settings[n.index(settings.len())]) else {
        return text.to_owned();
    };
    let replaced = text.lines().enumerate().map(|(at, line)| match line.split_once(" = ") {
        Some((name, _)) if at == chosen => format!("{name} = {value}\n"),
        _ => format!("{line}\n"),
    });
    replaced.collect::<Vec<_>>().concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn corrupted_files_do_not_panic(text in select(corpus()), edits in edits()) {
        exercise(&edited(&text, &edits));
    }

    #[test]
    fn arbitrary_values_do_not_panic(
        text in select(corpus()),
        values in vec((any::<Index>(), values()), 1..4),
    ) {
        exercise(&values.iter().fold(text, |text, (n, value)| with_value(&text, *n, value)));
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in "\\PC*") {
        exercise(&text);
        exercise(&format!("[[listener]]\nbind = \"127.0.0.1:0\"\n[upstream.web]\nbackends = [\"{text}\"]\n"));
    }

    #[test]
    fn order_in_the_file_does_not_matter(order in Just((1..=6usize).collect::<Vec<_>>()).prop_shuffle()) {
        let file = |order: &[usize]| {
            let mut text = "[[listener]]\nbind = \"127.0.0.1:0\"\n".to_owned();
            text.extend(order.iter().map(|n| {
                let path = "x".repeat(*n);
                format!(
                    "[[route]]\nhost = \"h{n}.example\"\npath = \"/{path}\"\nupstream = \"u{n}\"\n\
                     [[upstream.u0.backend]]\nid = \"n{n}\"\naddress = \"10.0.0.{n}:80\"\n\
                     [upstream.u{n}]\nbackends = [\"10.0.1.{n}:80\"]\n"
                )
            }));
            text.push_str("[[route]]\nupstream = \"u0\"\n");
            parse(&text, "x.toml").unwrap().config
        };
        prop_assert_eq!(file(&order), file(&[1, 2, 3, 4, 5, 6]));
    }
}

#[test]
fn output_for_thousands_of_errors_is_bounded() {
    let text: String = (0..5000).map(|n| format!("wrong{n} = 1\n")).collect::<Vec<_>>().concat();
    let diagnostics = parse(&text, "x.toml").unwrap_err();
    assert!(diagnostics.errors() >= 5000);
    let drawn = diagnostics.render(false);
    assert!(drawn.len() < 50_000, "{}", drawn.len());
    assert!(drawn.contains("more"), "{drawn}");
}

#[test]
fn errors_on_very_long_lines_show_only_the_line_number() {
    let text = format!("\nwrong = \"{}\"\n", "x".repeat(100_000));
    let drawn = parse(&text, "x.toml").unwrap_err().to_string();
    assert!(drawn.len() < 2000, "{}", drawn.len());
    assert!(drawn.contains("in x.toml, line 2"), "{drawn}");
}
