//! Every metric family that Homing exposes. `docs/operations.md` lists the same,
//! checked by a test.

use super::exposition::{Family, Kind};

macro_rules! families {
    ($($ident:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) static $ident: Family = Family {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All families, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$ident),*];
    };
}

families! {
    INFO = Gauge "homing_info" ["version"]
        "Always 1; the label says which version runs.";
    SNAPSHOT_GENERATION = Gauge "homing_snapshot_generation" []
        "Number of the state in force; grows with every change of configuration, health or admin state.";

    CONNECTIONS = Gauge "homing_connections" []
        "Client connections open now.";
    CONNECTIONS_ACCEPTED = Counter "homing_connections_accepted_total" []
        "Client connections accepted.";
    CONNECTIONS_REFUSED = Counter "homing_connections_refused_total" ["limit"]
        "Client connections closed at once, by the limit that was reached (connections, connections_per_client, descriptors).";
    TUNNELS = Gauge "homing_tunnels" []
        "Tunnels (upgraded connections, WebSocket) open now.";
    TUNNELS_OPENED = Counter "homing_tunnels_opened_total" []
        "Tunnels opened.";
    HTTP2_CONNECTIONS = Counter "homing_http2_connections_total" []
        "Client connections that spoke HTTP/2.";
    HTTP2_STREAMS = Counter "homing_http2_streams_total" ["result"]
        "Streams that clients opened: served, or malformed and reset.";
    HTTP2_FLOODS = Counter "homing_http2_floods_total" []
        "HTTP/2 connections cut because of a flood of frames that cost their sender nothing.";
    PROXY_HEADERS_REFUSED = Counter "homing_proxy_headers_refused_total" ["reason"]
        "Client connections closed for want of a PROXY header as it should be: missing, malformed, timeout, untrusted (the peer), client_gone, unused.";
    TLS_HANDSHAKES = Counter "homing_tls_handshakes_total" ["version", "result"]
        "TLS handshakes with clients by version (1.2, 1.3; none where it failed) and result (full, resumed, or why it failed).";
    TLS_CERTIFICATE_EXPIRY = Gauge "homing_tls_certificate_expiry_seconds" ["listener", "name"]
        "When a listener's certificate for this name expires, in seconds since the Unix epoch.";

    REQUESTS = Counter "homing_requests_total" ["upstream", "outcome", "reason"]
        "Requests by affinity outcome (kept, new, moved, unkeyed; none where no backend was picked) and its reason.";
    RESPONSES = Counter "homing_responses_total" ["upstream", "class", "source"]
        "Responses by class (2xx) and by who made them (backend, proxy).";
    ERRORS = Counter "homing_errors_total" ["upstream", "error"]
        "Requests that Homing answered itself or broke off, by error.";
    REQUEST_DURATION = Histogram "homing_request_duration_seconds" ["upstream"]
        "From the request head's last byte to the response's last byte; without tunnels.";
    RESPONSE_HEAD = Histogram "homing_response_head_seconds" ["upstream"]
        "From the request head's last byte to the response head's first byte.";
    CONNECT = Histogram "homing_connect_seconds" ["upstream"]
        "Time spent connecting to backends, by requests that had to connect.";
    ATTEMPTS = Counter "homing_attempts_total" ["upstream"]
        "Attempts to send a request to a backend.";
    RETRIES = Counter "homing_retries_total" ["upstream"]
        "Attempts after a request's first.";
    RECEIVED = Counter "homing_received_bytes_total" ["upstream"]
        "Bytes read from clients for finished requests.";
    SENT = Counter "homing_sent_bytes_total" ["upstream"]
        "Bytes written to clients for finished requests.";
    POOL_CONNECTIONS = Counter "homing_pool_connections_total" ["upstream", "use"]
        "Connections that attempts were sent on: fresh, or reused from the pool.";

    BACKEND_UP = Gauge "homing_backend_up" ["upstream", "backend"]
        "1 while checks find the backend up, else 0.";
    BACKEND_STATE = Gauge "homing_backend_state" ["upstream", "backend", "state"]
        "1 for the backend's admin state (ready, drain, maint), 0 for the others.";
    BACKEND_IN_FLIGHT = Gauge "homing_backend_in_flight" ["upstream", "backend"]
        "Requests and tunnels at the backend now.";
    BACKEND_CONNECTIONS = Gauge "homing_backend_connections" ["upstream", "backend"]
        "Connections to the backend, idle ones included.";
    BACKEND_REQUESTS = Counter "homing_backend_requests_total" ["upstream", "backend"]
        "Requests for the backend, refused connections included.";
    BACKEND_SESSIONS = Gauge "homing_backend_sessions" ["upstream", "backend"]
        "Sessions bound to the backend in the table; only with remember = table.";
    RING_SHARE = Gauge "homing_ring_share" ["upstream", "backend"]
        "The share of all keys whose home the backend is, whatever its state; 0 to 1.";
    RING_ACTIVE = Gauge "homing_ring_active" ["upstream", "backend"]
        "The part of the backend's points that take new sessions; below 1 during slow start.";
    TABLE_ENTRIES = Gauge "homing_table_entries" ["upstream"]
        "Bindings in the table; only with remember = table.";
    TABLE_MAX_ENTRIES = Gauge "homing_table_max_entries" ["upstream"]
        "Bindings the table holds at most; beyond, the longest idle is forgotten.";

    ACCESS_LOG_DROPPED = Counter "homing_access_log_dropped_total" []
        "Access log lines dropped because the writer could not keep up.";
    ACCESS_LOG_ERRORS = Counter "homing_access_log_errors_total" []
        "Writes to the access log that failed.";

    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "CPU time used, user and system, in seconds.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "File descriptors that may be open.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory in bytes.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "When the process started, in seconds since the Unix epoch.";
}
