use super::*;

/// Writes a file to a new directory and checks it. The output names it `homing.toml`.
fn checked(text: &str) -> (u8, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("homing.toml");
    std::fs::write(&path, text).unwrap();
    let (status, printed) = run(&path, false, None, |_| Rehearsal::default());
    (status, printed.replace(&format!("{}/", directory.path().display()), ""))
}

#[test]
fn warns_about_too_few_descriptors() {
    let text = "limits = { connections = 1000 }\nserver = { workers = 2 }\nlistener = [{ bind = \"127.0.0.1:0\" }]\n\
                [upstream.web]\nbackends = [\"a.internal:1\"]\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("homing.toml");
    std::fs::write(&path, text).unwrap();
    for (files, warned) in [(Some(1024), true), (Some(2047), true), (Some(2048), false), (None, false)] {
        let (status, printed) = run(&path, false, files, |_| Rehearsal::default());
        assert_eq!(status, GOOD, "{printed}");
        assert_eq!(
            printed.contains("limits.connections = 1000 may need 2048 open files"),
            warned,
            "{printed}"
        );
    }
}

#[test]
fn warns_about_a_public_seed_where_clients_choose_keys() {
    let text = |backends: &str, affinity: &str| {
        format!(
            "listener = [{{ bind = \"127.0.0.1:0\" }}]\n[upstream.web]\nbackends = [{backends}]\naffinity = {affinity}\n"
        )
    };
    let (one, two) = ("\"a.internal:1\"", "\"a.internal:1\", \"b.internal:1\"");
    for (backends, affinity, warned) in [
        (two, "{ key = [\"cookie:SID\", \"ip\"] }", true),
        (two, "{ key = [\"query:sid\"], remember = \"none\" }", true),
        (two, "{ key = [\"ip\"] }", false),
        (two, "\"none\"", false),
        (one, "{ key = [\"cookie:SID\"] }", false),
    ] {
        let (status, printed) = checked(&text(backends, affinity));
        assert_eq!(status, GOOD, "{printed}");
        assert_eq!(printed.contains("the ring's seed is public in `web`"), warned, "{affinity}: {printed}");
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("seed"), "5f".repeat(16)).unwrap();
    let path = directory.path().join("homing.toml");
    let secret = text(two, "{ key = [\"cookie:SID\"], ring = { seed_file = \"seed\" } }");
    std::fs::write(&path, secret).unwrap();
    let (status, printed) = run(&path, false, None, |_| Rehearsal::default());
    assert!(status == GOOD && !printed.contains("public"), "{printed}");
}

#[test]
fn valid_file_prints_a_summary() {
    let (status, printed) = checked(
        r#"
        [server]
        workers = 2
        admin = "127.0.0.1:9900"

        [client_ip]
        trusted = ["10.0.0.0/8"]

        [[listener]]
        bind = "0.0.0.0:8080"

        [[route]]
        upstream = "web"

        [[route]]
        host = "*.example.com"
        path = "/shop"
        upstream = "shop"

        [[upstream.shop.backend]]
        id = "node2"
        address = "10.0.1.12:8080"
        weight = 3

        [[upstream.shop.backend]]
        id = "node1"
        address = "10.0.1.11:8080"
        state = "drain"

        [upstream.shop.affinity]
        key = ["cookie:JSESSIONID", "ip"]
        failover = "temporary"
        hold = "3s"
        table = { file = "sessions.table" }

        [upstream.shop.health_check]
        path = "/healthz"

        [upstream.web]
        backends = ["app.internal:8080"]
        health_check = false

        [upstream.web.affinity]
        key = []
        remember = "none"
        "#,
    );
    assert_eq!(status, GOOD, "{printed}");
    insta::assert_snapshot!(printed);
}

#[test]
fn recommends_an_http_check_where_there_is_none() {
    let printed = |upstream: &str| {
        let (status, printed) = checked(&format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[upstream.web]\nbackends = [\"10.0.0.1:80\"]\n{upstream}\n"
        ));
        assert_eq!(status, GOOD, "{printed}");
        printed
    };
    let recommends = |text: &str| text.contains("Recommended: health_check = { path = \"/healthz\" }");
    for (upstream, says) in [
        ("", "TCP checks do not see a hung application; its sessions move after 10s without any answer"),
        ("passive = false", "TCP checks do not see a hung application, and its sessions stay"),
        (
            "health_check = false",
            "a session moves when its connection is refused, and all sessions after 10s",
        ),
        ("health_check = false\npassive = false", "nothing tells whether a backend works"),
    ] {
        let printed = printed(upstream);
        assert!(printed.contains(says) && recommends(&printed), "{printed}");
    }
    assert!(!recommends(&printed("health_check = { path = \"/up\" }")));
}

#[test]
fn shares_follow_weights_and_sum_to_one() {
    let loaded = config::parse(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [[upstream.u.backend]]\naddress = \"10.0.0.1:80\"\nweight = 3\n\
         [[upstream.u.backend]]\naddress = \"10.0.0.2:80\"\n",
        "x.toml",
    )
    .unwrap();
    let upstream = &loaded.config.upstreams[0];
    let shares = ring(upstream).shares();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert!((shares[0] - 0.75).abs() < 0.05, "{shares:?}");
    let balance = peak_over_mean(upstream, &shares);
    assert!((1.0..1.1).contains(&balance), "{balance}");
    assert!((peak_over_mean(upstream, &[0.5, 0.5]) - 2.0).abs() < 1e-9, "twice the share of its weight");
}

#[test]
fn file_with_warnings_is_valid() {
    let (status, printed) = checked(
        "[server]\nadmin = \"0.0.0.0:9900\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [upstream.web]\nbackends = [\"10.0.0.1:80\"]\n",
    );
    assert_eq!(status, GOOD);
    assert!(printed.starts_with("warning: the admin address"), "{printed}");
    assert!(printed.contains("homing.toml: valid, 1 warning\n"), "{printed}");
}

#[test]
fn what_a_start_would_meet_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("homing.toml");
    let text = "listener = [{ bind = \"127.0.0.1:0\" }]\n[upstream.web]\nbackends = [\"10.0.0.1:80\"]\n";
    std::fs::write(&path, text).unwrap();
    let met = |errors: &[&str], warnings: &[&str]| {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let rehearsal = Rehearsal { errors: texts(errors), warnings: texts(warnings) };
        run(&path, false, Some(100), |_| rehearsal)
    };
    let (status, printed) = met(&[], &["cannot resolve it\nhelp: so"]);
    assert_eq!(status, GOOD);
    assert!(printed.starts_with("warning: cannot resolve it\nhelp: so\n\nwarning: limits."), "{printed}");
    assert!(printed.contains("homing.toml: valid, 2 warnings\n"), "{printed}");
    let (status, printed) = met(&["cannot listen"], &[]);
    assert_eq!(status, FAILED);
    assert!(
        printed.contains("homing.toml: valid, but Homing cannot run with it here, 1 error, 1 warning\n"),
        "{printed}"
    );
}

#[test]
fn invalid_file_prints_and_counts_its_errors() {
    let (status, printed) = checked("[server]\nadmin = \"0.0.0.0:9900\"\nworker = 1\n");
    assert_eq!(status, INVALID);
    assert!(printed.contains("unknown key `worker`"), "{printed}");
    assert!(printed.ends_with("homing.toml: 3 errors, 1 warning\n"), "{printed}");
}

#[test]
fn unreadable_file_is_an_error() {
    let (status, printed) = run(Path::new("/nonexistent/homing.toml"), false, None, |_| Rehearsal::default());
    assert_eq!(status, INVALID);
    assert_eq!(
        printed,
        "error: cannot read /nonexistent/homing.toml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn color_is_used_only_if_requested() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("homing.toml");
    std::fs::write(&path, "x = 1\n").unwrap();
    assert!(run(&path, true, None, |_| Rehearsal::default()).1.contains('\u{1b}'));
    assert!(!run(&path, false, None, |_| Rehearsal::default()).1.contains('\u{1b}'));
}

#[test]
fn tls_summary_shows_names_and_expiry() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, names: &[&str], until: i32| {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        std::fs::write(directory.path().join(name), pem).unwrap();
    };
    write("shop.pem", &["shop.example.com", "*.shop.example.com"], 2999);
    write("old.pem", &["old.example.com"], 2020);
    let text = r#"
        [[listener]]
        bind = "127.0.0.1:80"
        redirect_https = true

        [[listener]]
        bind = "127.0.0.1:443"
        tls = { certs = ["shop.pem", "old.pem"], client_auth = { ca = "old.pem", mode = "optional" } }

        [upstream.web]
        backends = ["10.0.0.1:8443"]
        tls = { ca = "shop.pem", server_name = "web.internal" }
    "#;
    let path = directory.path().join("homing.toml");
    std::fs::write(&path, text).unwrap();
    let (status, printed) = run(&path, false, None, |_| Rehearsal::default());
    assert_eq!(status, GOOD, "{printed}");
    for expected in [
        "old.pem expired on Wed, 01 Jan 2020",
        "listeners   127.0.0.1:80, redirects to https on port 443",
        "            127.0.0.1:443, TLS 1.2 and 1.3, client certificates optional",
        "  shop.example.com, *.shop.example.com  ECDSA  expires Tue, 01 Jan 2999 00:00:00 GMT  shop.pem",
        "  tls       verified against",
        "shop.pem, as web.internal",
    ] {
        assert!(printed.contains(expected), "{expected:?} is not in:\n{printed}");
    }
}
