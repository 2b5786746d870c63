//! All metric families. A test checks that `docs/operations.md` lists the same ones.

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
        "Always 1. The label is the running version.";
    SNAPSHOT_GENERATION = Gauge "homing_snapshot_generation" []
        "Generation of the current state. Increases with every change of configuration, health or admin state.";
    CONFIG_RELOAD_SUCCESS = Gauge "homing_config_reload_success" []
        "Whether the latest reload succeeded (1 before the first). If 0, the configuration before it is in effect.";
    CONFIG_RELOAD_TIMESTAMP = Gauge "homing_config_reload_timestamp_seconds" []
        "When the configuration in effect was loaded, at the start or by a reload, in seconds since the Unix epoch.";

    CONNECTIONS = Gauge "homing_connections" []
        "Open client connections.";
    CONNECTIONS_ACCEPTED = Counter "homing_connections_accepted_total" []
        "Accepted client connections.";
    CONNECTIONS_REFUSED = Counter "homing_connections_refused_total" ["limit"]
        "Client connections closed on arrival, by the limit reached (connections, connections_per_client, descriptors).";
    TUNNELS = Gauge "homing_tunnels" []
        "Open tunnels (upgraded connections such as WebSocket).";
    TUNNELS_OPENED = Counter "homing_tunnels_opened_total" []
        "Tunnels opened.";
    EVENT_STREAMS = Gauge "homing_event_streams" []
        "Open responses that may never end (text/event-stream, multipart/x-mixed-replace).";
    HTTP2_CONNECTIONS = Counter "homing_http2_connections_total" []
        "Client connections that used HTTP/2.";
    HTTP2_STREAMS = Counter "homing_http2_streams_total" ["result"]
        "Streams opened by clients, by result: served, malformed and reset, or refused because the client has too many.";
    WAITING_MEMORY = Gauge "homing_waiting_memory_bytes" []
        "Memory that connections and requests hold while they wait, as counted for limits.memory.";
    HTTP2_FLOODS = Counter "homing_http2_floods_total" []
        "HTTP/2 connections closed because of a flood of frames that are cheap to send.";
    PROXY_HEADERS_REFUSED = Counter "homing_proxy_headers_refused_total" ["reason"]
        "Client connections closed because of a missing or invalid PROXY header, by reason (missing, malformed, timeout, untrusted, client_gone, unused).";
    TLS_HANDSHAKES = Counter "homing_tls_handshakes_total" ["version", "result"]
        "TLS handshakes with clients, by version (1.2, 1.3; none if it failed) and result (full, resumed, or the reason for the failure).";
    TLS_CERTIFICATE_EXPIRY = Gauge "homing_tls_certificate_expiry_seconds" ["listener", "name"]
        "Expiry of a listener's certificate for this name, in seconds since the Unix epoch.";

    REQUESTS = Counter "homing_requests_total" ["upstream", "outcome", "reason"]
        "Requests by affinity outcome (kept, new, moved, unkeyed; none if no backend was picked) and reason.";
    RECALLED = Counter "homing_recalled_total" ["upstream", "memory"]
        "Requests with a known binding, by the memory that held it (table, cookie).";
    SESSIONS_BY_ADDRESS = Counter "homing_sessions_by_address_total" ["upstream", "address"]
        "New sessions placed by the client's address. Of every 20, those of the most frequent address count as largest, the rest as other.";
    RESPONSES = Counter "homing_responses_total" ["upstream", "class", "source"]
        "Responses by status class (such as 2xx) and source (backend, proxy).";
    ERRORS = Counter "homing_errors_total" ["upstream", "error"]
        "Requests that Homing answered with an error or aborted, by error.";
    REQUEST_DURATION = Histogram "homing_request_duration_seconds" ["upstream"]
        "Time from the last byte of the request head to the last byte of the response. Excludes tunnels.";
    RESPONSE_HEAD = Histogram "homing_response_head_seconds" ["upstream"]
        "Time from the last byte of the request head to the first byte of the response head.";
    CONNECT = Histogram "homing_connect_seconds" ["upstream"]
        "Time spent connecting to backends, for requests that needed a new connection.";
    ATTEMPTS = Counter "homing_attempts_total" ["upstream"]
        "Attempts to send a request to a backend.";
    RETRIES = Counter "homing_retries_total" ["upstream"]
        "Retries: attempts after a request's first one.";
    RECEIVED = Counter "homing_received_bytes_total" ["upstream"]
        "Bytes read from clients for finished requests.";
    SENT = Counter "homing_sent_bytes_total" ["upstream"]
        "Bytes written to clients for finished requests.";
    POOL_CONNECTIONS = Counter "homing_pool_connections_total" ["upstream", "use"]
        "Connections used for attempts: fresh, or reused from the pool.";
    BACKEND_HTTP2_CANCELLED = Counter "homing_backend_http2_cancelled_total" ["upstream", "result"]
        "Cancelled requests to HTTP/2 backends, by result: finished within the time they were given, or reset.";
    BACKEND_HTTP2_ISOLATED = Counter "homing_backend_http2_isolated_total" ["upstream"]
        "HTTP/2 connections to backends opened for one client alone, because it cancels many requests or its unread uploads fill the window of one.";

    QUEUE_LENGTH = Gauge "homing_queue_length" ["upstream"]
        "Requests that wait in line for a place at a backend.";
    QUEUE_LEFT = Counter "homing_queue_left_total" ["upstream", "result"]
        "Requests that left the line, by result: served, timeout, full (turned away because the line was full), or gone (the client disconnected or the backend went away).";

    BACKEND_UP = Gauge "homing_backend_up" ["upstream", "backend"]
        "1 if the backend is up, otherwise 0.";
    BACKEND_STATE = Gauge "homing_backend_state" ["upstream", "backend", "state"]
        "1 for the backend's current admin state (ready, drain, maint), 0 for the others.";
    BACKEND_IN_FLIGHT = Gauge "homing_backend_in_flight" ["upstream", "backend"]
        "Requests and tunnels in flight at the backend.";
    BACKEND_CONNECTIONS = Gauge "homing_backend_connections" ["upstream", "backend"]
        "Connections to the backend, including idle ones.";
    BACKEND_REQUESTS = Counter "homing_backend_requests_total" ["upstream", "backend"]
        "Attempts at the backend, including failed connection attempts.";
    BACKEND_SESSIONS = Gauge "homing_backend_sessions" ["upstream", "backend"]
        "Sessions bound to the backend in the table. Only if remember includes the table.";
    RING_SHARE = Gauge "homing_ring_share" ["upstream", "backend"]
        "Fraction of all keys whose home is the backend, regardless of its state (0 to 1).";
    RING_ACTIVE = Gauge "homing_ring_active" ["upstream", "backend"]
        "Fraction of the backend's points that are active. Below 1 during slow start.";
    TABLE_ENTRIES = Gauge "homing_table_entries" ["upstream"]
        "Bindings in the table. Only if remember includes the table.";
    TABLE_MAX_ENTRIES = Gauge "homing_table_max_entries" ["upstream"]
        "Maximum number of bindings in the table. Beyond it, ids that no backend has set are evicted first, then the longest idle.";

    BACKEND_RESPONSES = Counter "homing_backend_responses_total" ["upstream", "backend", "class"]
        "Responses of the backend by status class.";
    BACKEND_RESPONSE_HEAD = Histogram "homing_backend_response_head_seconds" ["upstream", "backend"]
        "Time from the start of an attempt at the backend to the first byte of its response head.";
    BACKEND_FAILURES = Counter "homing_backend_failures_total" ["upstream", "backend", "error"]
        "Failed attempts at the backend by error, including those that were retried elsewhere.";

    ACCESS_LOG_DROPPED = Counter "homing_access_log_dropped_total" []
        "Access log lines lost because the writer could not keep up or could not write, for example to a full disk.";
    ACCESS_LOG_ERRORS = Counter "homing_access_log_errors_total" []
        "Failed writes to the access log.";

    PROCESS_CPU = Counter "process_cpu_seconds_total" []
        "User and system CPU time in seconds.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Maximum number of open file descriptors.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" []
        "Resident memory in bytes.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Threads.";
    PROCESS_START = Gauge "process_start_time_seconds" []
        "Start time of the process in seconds since the Unix epoch.";
}
