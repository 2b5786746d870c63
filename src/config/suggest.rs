//! Finds the known word closest to a misspelled one, for "did you mean".

/// Returns the word of `known` that `written` most likely misspells.
pub(super) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Longer words match none of ours, and the cost is quadratic.
    if written.len() > 64 {
        return None;
    }
    let written = simple(written);
    known
        .into_iter()
        .map(|word| (distance(&written, &simple(word)), word))
        .filter(|&(distance, word)| distance <= tolerance(word))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

/// Returns what to write instead of a key of another proxy.
pub(super) fn foreign(key: &str) -> Option<&'static str> {
    Some(match key {
        "ip_hash" => "use affinity = \"hash_ip\", which is the default",
        "least_conn" | "leastconn" | "roundrobin" | "balance" | "lb_policy" => {
            "use affinity = \"none\" to balance the load without affinity"
        }
        "sticky" | "stick_table" | "stick-table" => {
            "use affinity = { key = [\"cookie:NAME\"] } with the name of the application's cookie"
        }
        "server" | "servers" | "members" | "hosts" => "use backends = [\"10.0.0.1:8080\"]",
        "location" | "locations" => "use [[route]] with `path` and `upstream`",
        "listen" | "port" => "use [[listener]] with bind = \"0.0.0.0:8080\"",
        "server_name" | "server_names" => "use [[route]] with `host` and `upstream`",
        "ssl_certificate" | "ssl_certificate_key" | "cert" | "key_file" => {
            "use tls = { certs = [\"certs/*.pem\"] } in the [[listener]]"
        }
        _ => return None,
    })
}

/// The maximum edit distance: a third of the word.
fn tolerance(word: &str) -> usize {
    (word.chars().count() / 3).max(1)
}

/// Normalizes a word: case is ignored, and `-` equals `_`.
fn simple(word: &str) -> Vec<char> {
    word.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Edit distance of two words: insertions, deletions, replacements and swaps of
/// adjacent characters.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, &to) in b.iter().enumerate() {
            let replace = above[j] + usize::from(from != to);
            let mut best = replace.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from == b[j - 1] && a[i - 1] == to {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_counts_as_one_edit() {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("tiemout"), &chars("timeout")), 1);
        assert_eq!(distance(&chars(""), &chars("abc")), 3);
        assert_eq!(distance(&chars("same"), &chars("same")), 0);
        assert_eq!(distance(&chars("kitten"), &chars("sitting")), 3);
    }

    #[test]
    fn suggests_the_closest_word_only_if_it_is_close() {
        let words = ["interval", "fast_interval", "timeout", "rise", "fall"];
        assert_eq!(nearest("intervall", words), Some("interval"));
        assert_eq!(nearest("fast-interval", words), Some("fast_interval"));
        assert_eq!(nearest("Rise", words), Some("rise"));
        assert_eq!(nearest("banana", words), None);
        assert_eq!(nearest(&"x".repeat(100_000), words), None);
    }
}
