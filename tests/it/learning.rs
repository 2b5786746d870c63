//! What a backend sets, what a client claims, and which of several ids counts.

use crate::harness::{Backend, Proxy, RawClient, eventually, three};

/// Makes the backends answer with these lines.
fn set_fields(backends: &[Backend; 3], lines: &[&str]) {
    for backend in backends {
        backend.set_fields(lines);
    }
}

async fn proxy(backends: &[Backend; 3], affinity: &str) -> Proxy {
    let [a, b, c] = backends;
    Proxy::builder().upstream("web", &[a, b, c]).affinity(affinity).start().await
}

/// Lets a backend mint this id; returns the backend's name.
async fn mint(proxy: &Proxy, backends: &[Backend; 3], id: &str) -> String {
    set_fields(backends, &[&format!("Set-Cookie: SID={id}; Path=/")]);
    let minting = proxy.client().get("/login").await.backend().to_owned();
    set_fields(backends, &[]);
    minting
}

#[tokio::test]
async fn every_id_that_a_response_sets_is_bound() {
    let backends = three().await;
    let proxy = proxy(&backends, r#"key = ["cookie:SID"]"#).await;
    for (case, lines) in [
        ["Set-Cookie: SID=ID; Path=/", "Set-Cookie: SID=; Path=/old; Max-Age=0"],
        ["Set-Cookie: SID=; Path=/old; Max-Age=0", "Set-Cookie: SID=ID; Path=/"],
        ["Set-Cookie: SID=ID; Path=/", "Set-Cookie: SID=x; Path=/; Domain=app.test; Max-Age=0"],
        ["Set-Cookie: SID=ID; Path=/; Secure; Partitioned", "Set-Cookie: SID=; Path=/; Secure; Max-Age=0"],
        ["Set-Cookie: SID=ID; Path=/", "Set-Cookie: SID=other-ID; Path=/other"],
        ["Set-Cookie: SID=other-ID; Path=/other", "Set-Cookie: SID=ID; Path=/"],
    ]
    .into_iter()
    .enumerate()
    {
        for n in 0..8 {
            let id = format!("case{case}-{n}");
            let lines = lines.map(|line| line.replace("ID", &id).replace(&format!("S{id}"), "SID"));
            set_fields(&backends, &[&lines[0], &lines[1]]);
            let minting = proxy.client().get("/login").await.backend().to_owned();
            set_fields(&backends, &[]);
            assert_eq!(proxy.session(&id).get("/").await.backend(), minting, "{lines:?}");
        }
    }
}

#[tokio::test]
async fn deletion_in_another_scope_leaves_the_session() {
    let backends = three().await;
    let proxy = proxy(&backends, r#"key = ["cookie:SID"], report = true"#).await;
    let deletions = [
        "Set-Cookie: SID=; Path=/tenant; Max-Age=0",
        "Set-Cookie: SID=; Path=/; Domain=example.com; Max-Age=0",
        "Set-Cookie: SID=; Path=/; Secure; Partitioned; Max-Age=0",
        "Set-Cookie: SID=; Max-Age=0",
    ];
    for n in 0..8 {
        let id = format!("kept-{n}");
        let minting = mint(&proxy, &backends, &id).await;
        set_fields(&backends, &deletions);
        assert_eq!(proxy.session(&id).get("/tenant/page").await.backend(), minting);
        set_fields(&backends, &["Set-Cookie: SID=; Path=/; Max-Age=0"]);
        let reply = proxy.session(&id).get("/tenant/logout").await;
        assert_eq!(reply.outcome(), format!("kept; backend={minting}"));
        let after = proxy.session(&id).get("/").await;
        assert!(after.outcome().starts_with("new"), "{}", after.outcome());
    }
}

#[tokio::test]
async fn id_that_the_table_knows_wins_over_stale_ones() {
    let backends = three().await;
    let proxy = proxy(&backends, r#"key = ["cookie:SID", "query:sid", "path_param:sid"]"#).await;
    let mut raw = proxy.raw().await;
    for n in 0..12 {
        let id = format!("live-{n}");
        let minting = mint(&proxy, &backends, &id).await;
        for cookie in [format!("SID=stale{n}; SID={id}"), format!("SID={id}; SID=stale{n}")] {
            let reply = raw.get("/", &[&format!("Cookie: {cookie}")]).await;
            assert_eq!(reply.backend(), minting, "{cookie}");
        }
        for target in [format!("/?sid=stale{n}&sid={id}"), format!("/a;sid=stale{n}/b;sid={id}")] {
            assert_eq!(raw.get(&target, &[]).await.backend(), minting, "{target}");
        }
    }
}

#[tokio::test]
async fn made_up_ids_do_not_push_out_minted_ones() {
    let backends = three().await;
    let proxy = proxy(&backends, r#"key = ["cookie:SID"], table = { max_entries = 60 }"#).await;
    let mut minted = Vec::new();
    for n in 0..40 {
        let id = format!("minted-{n}");
        minted.push((mint(&proxy, &backends, &id).await, id));
    }
    let mut stranger = proxy.raw().await;
    for n in 0..200 {
        stranger.get("/", &[&format!("Cookie: SID=made-up-{n}")]).await;
    }
    for (minting, id) in minted {
        assert_eq!(proxy.session(&id).get("/").await.backend(), minting);
    }
}

#[tokio::test]
async fn one_address_does_not_push_out_sessions_of_others() {
    let backends = three().await;
    let affinity = r#"key = ["cookie:SID"], report = true, table = { max_entries = 100 }"#;
    let proxy = proxy(&backends, affinity).await;
    let from = |n: u8| std::net::IpAddr::from([127, 0, 4, n]);
    for n in 1..=20 {
        RawClient::connect_from(from(n), proxy.addr()).await.get("/", &[&format!("Cookie: SID=s{n}")]).await;
    }
    let mut stranger = RawClient::connect_from(from(99), proxy.addr()).await;
    for n in 0..300 {
        stranger.get("/", &[&format!("Cookie: SID=made-up-{n}")]).await;
    }
    for n in 1..=20 {
        let mut client = RawClient::connect_from(from(n), proxy.addr()).await;
        let reply = client.get("/", &[&format!("Cookie: SID=s{n}")]).await;
        assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
    }
}

#[tokio::test]
async fn ids_that_roll_do_not_fill_the_table() {
    let backends = three().await;
    let proxy = proxy(&backends, r#"key = ["cookie:SID"]"#).await;
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    let mut home = vec![String::new(); 4];
    for step in 0..20 {
        for (n, client) in clients.iter_mut().enumerate() {
            set_fields(&backends, &[&format!("Set-Cookie: SID=rolling-{n}-{step}; Path=/")]);
            let backend = client.get("/").await.backend().to_owned();
            assert!(step == 0 || backend == home[n], "the session moved");
            home[n] = backend;
        }
    }
    // The latest id of each, and the one before that, since the latest has not been used.
    eventually("replaced ids are gone", async || {
        proxy.metric("homing_table_entries", &[("upstream", "web")]) <= 8.0
    })
    .await;
    set_fields(&backends, &[]);
    for (client, home) in clients.iter_mut().zip(home) {
        assert_eq!(client.get("/").await.backend(), home);
    }
}
