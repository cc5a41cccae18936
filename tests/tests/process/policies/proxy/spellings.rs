//! A proxy on loopback in every spelling that some parser understands, and in
//! some that none does.

/// Hosts that are loopback for Go's url package and dialer, for its resolver or
/// for curl. The key is what `theirs` would have.
const LOOPBACK: &[&str] = &[
    "127.0.0.1",
    "127.1.2.3",
    "127.255.255.254",
    "localhost",
    "LOCALHOST",
    "LocalHost",
    "localhost.",
    "proxy.localhost",
    "proxy.localhost.",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::1%25lo]",
    "[::1%lo]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:127.0.0.1]",
    // Unspecified is this machine too.
    "0.0.0.0",
    "[::]",
    "[::ffff:0.0.0.0]",
    "0",
    "00",
    "0x0",
    // As inet_aton reads numbers.
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "127.000.000.001",
    "127.0.0.0x1",
    // As curl and IDNA decode them.
    "%31%32%37.0.0.1",
    "127.0.0.%31",
    "%6c%6f%63%61%6c%68%6f%73%74",
    "localhos%74",
    "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "ｌｏｃａｌｈｏｓｔ",
    // Nothing at all is the machine itself for a dialer.
    "",
    " 127.0.0.1",
    "127.0.0.1 ",
    "\t127.0.0.1",
];

/// Ports that are the credential proxy's, and none.
const PORTS: &[&str] = &[
    ":15080",
    ":015080",
    ":15080/",
    ":15080/x?y#z",
    "",
    ":",
    ":80",
    ":3128",
];

/// Proxies that a Secret named `mine` may not have.
pub(super) fn of_another() -> Vec<String> {
    let mut values = Vec::new();
    for host in LOOPBACK {
        values.push(format!("http://theirs:key@{host}:15080"));
        values.push(format!("http://theirs:key@{host}"));
    }
    for port in PORTS {
        values.push(format!("http://theirs:key@127.0.0.1{port}"));
        values.push(format!("http://theirs:key@[::1]{port}"));
    }
    for scheme in [
        "",
        "//",
        "http:",
        "http:/",
        "HTTP://",
        "https://",
        "HTTPS://",
        "socks5://",
        "socks5h://",
        "socks4a://",
        "ftp://",
        "://",
        "x://",
        "http:////",
        "http:\\\\",
        "http://http://",
    ] {
        values.push(format!("{scheme}theirs:key@127.0.0.1:15080"));
        values.push(format!("{scheme}theirs:key@localhost:15080"));
        // The only form for its own name is the one that the webhook writes.
        if scheme != "http://" {
            values.push(format!("{scheme}mine:key@127.0.0.1:15080"));
        }
    }
    for user in [
        "theirs",
        "theirs:",
        ":key",
        "",
        ":",
        "mine2:key",
        "min:key",
        "MINE:key",
        "mine%32:key",
        "%6dine:key",
        " mine:key",
        "mine :key",
        "mine\u{0}2:key",
        "mine/:key",
        "mine?:key",
        "mine#:key",
        "mine\\:key",
        "mine;theirs:key",
        "theirs:key%40mine:key",
        // Which @ ends the user is a question of the parser.
        "theirs:key@mine:key",
        "mine:key@theirs:key",
        "mine:key@127.0.0.1:15080#",
        "mine:key@example.test/",
        "mine@theirs",
    ] {
        values.push(format!("http://{user}@127.0.0.1:15080"));
    }
    values.extend(
        [
            // What a resolver makes of a name is not known here, the port is.
            "http://theirs:key@proxy.example.test:15080",
            "http://theirs:key@example.test:0015080",
            "http://theirs:key@[2001:db8::1]:15080",
            "http://theirs:key@[::127.0.0.1]:15080",
            "http://theirs:key@[64:ff9b::127.0.0.1]:15080",
            "https://theirs:key@10.0.0.1:15080",
            "theirs:key@argocd-repo-server:15080",
            // Some parser looks behind these.
            "http://theirs:key@example.test@127.0.0.1:15080",
            "http://theirs:key@127.0.0.1:15080@example.test",
            "http://example.test/@127.0.0.1:15080",
            "http://example.test#@127.0.0.1:15080",
            "http://example.test\\@127.0.0.1:15080",
            "http://theirs:key@127.0.0.1\\@example.test:80",
            "http://theirs:key@\n127.0.0.1:15080",
            "http://theirs:key@127.0.0.1:15080\n",
            " http://theirs:key@127.0.0.1:15080",
            // Without a user the credential proxy has nothing for it.
            "http://127.0.0.1:15080",
            "127.0.0.1:15080",
            "http://localhost:15080/",
            "https://[::1]:15080",
            "socks5://127.1:15080",
            "//0.0.0.0:15080",
            "localhost:15080",
            ":15080",
            "http://:15080",
        ]
        .map(str::to_owned),
    );
    values
}
