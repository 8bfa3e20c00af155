"""Which proxy leads to an address, by the option, the configuration and the environment."""

from urllib.parse import urlsplit

import pytest

from okxcli.errors import ConfigError, UsageError
from okxcli.runtime.proxy import Proxies, Proxy, excepted, parse

WS, REST = "wss://ws.okx.com", "https://www.okx.com"


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://10.0.0.1:3128", Proxy("http", "10.0.0.1", 3128)),
        ("HTTP://Proxy.Corp", Proxy("http", "proxy.corp", 80)),
        ("proxy.corp:8080", Proxy("http", "proxy.corp", 8080)),
        ("socks5://[::1]", Proxy("socks5", "::1", 1080)),
        (" socks5h://h:9050/ ", Proxy("socks5h", "h", 9050)),
        ("http://me@h:1", Proxy("http", "h", 1, "me")),
        ("http://me:@h:1", Proxy("http", "h", 1, "me", "")),
        ("http://m%40e:p%3A%2Fs%C3%A9@h:1", Proxy("http", "h", 1, "m@e", "p:/sé")),
        ("", None),
        ("none", None),
        ("NONE", None),
    ],
)
def test_the_address_of_a_proxy(text, proxy):
    """Scheme, host and port with their defaults; name and password percent-decoded; `none` and nothing are none."""
    found = parse(text)
    assert found == proxy
    if proxy is not None:
        assert (found.user, found.password) == (proxy.user, proxy.password)


@pytest.mark.parametrize(
    "text",
    [
        "https://h:1", "socks4://h", "h p:1 2", "ftp://u:secret@h", "http://", "http://u:secret@h:port", "http://h:0",
        "http://h/x", "http://h:70000", "http://[::1", "http://h?q", "http://u:sec/ret@h:1", f"http://u:{'s' * 256}@h", "://",
    ],
)  # fmt: skip
def test_what_is_no_proxy_is_told_without_the_value(text):
    """It may hold a password, so nothing of it is quoted."""
    for build in (
        lambda: Proxies(text),
        lambda: Proxies(None, text, {}).of(WS),
        lambda: Proxies(env={"ALL_PROXY": text}).of(WS),
    ):
        with pytest.raises((UsageError, ConfigError)) as error:
            build()
        assert "sec" not in str(error.value)
        assert "write http://host:3128 or socks5h://host:1080, or none" in str(error.value)


def test_name_and_password_show_nowhere():
    """Neither as text nor as repr."""
    proxy = parse("http://alice:secret@h:1")
    assert "alice" not in f"{proxy} {proxy!r}"
    assert "secret" not in f"{proxy} {proxy!r}"
    assert str(parse("socks5://[fe80::1]:2")) == "socks5://[fe80::1]:2"


def test_a_password_in_the_option_is_refused():
    """It shows in `ps`; the remedy is named. A name alone may stand there."""
    with pytest.raises(UsageError, match="HTTPS_PROXY") as error:
        Proxies("http://me:secret@h:1")
    assert "secret" not in str(error.value)
    assert str(Proxies("http://me@h:1").of(WS)) == "http://h:1"


@pytest.mark.parametrize(
    ("env", "ws", "rest", "plain"),
    [
        ({}, None, None, None),
        ({"https_proxy": "http://a"}, "a", "a", None),
        ({"HTTPS_PROXY": "http://a", "https_proxy": "http://b"}, "b", "b", None),
        ({"HTTPS_PROXY": "http://a", "https_proxy": ""}, None, None, None),
        ({"HTTP_PROXY": "http://a"}, None, None, "a"),
        ({"http_proxy": "http://a", "ALL_PROXY": "http://b"}, "b", "b", "a"),
        ({"all_proxy": "socks5h://a"}, "a", "a", "a"),
        ({"ALL_PROXY": "http://a", "NO_PROXY": "ws.okx.com"}, None, "a", "a"),
        ({"ALL_PROXY": "http://a", "NO_PROXY": "x", "no_proxy": ".okx.com"}, None, None, None),
        ({"ALL_PROXY": "http://a", "no_proxy": "", "NO_PROXY": "*"}, "a", "a", "a"),
    ],
)
def test_the_environment(env, ws, rest, plain):
    """HTTPS_PROXY is for wss and https, HTTP_PROXY for ws and http, ALL_PROXY for the rest; lower case comes first."""
    proxies = Proxies(env=env)
    found = [proxies.of(url) for url in (WS, REST, "http://eea.okx.com:8080")]
    assert [proxy and proxy.host for proxy in found] == [ws, rest, plain]


def test_the_order():
    """The option, the configuration, the environment; `none` at one place hides those after it."""
    env = {"ALL_PROXY": "http://e"}
    assert Proxies("http://o", "http://c", env).of(WS).host == "o"
    assert Proxies("none", "http://c", env).of(WS) is None
    assert Proxies("", "http://c", env).of(WS) is None
    assert Proxies(None, "http://c", env).of(WS).host == "c"
    assert Proxies(None, "none", env).of(WS) is None
    assert Proxies(None, None, env).of(WS).host == "e"


@pytest.mark.parametrize(
    "url",
    [
        "ws://127.0.0.1:80",
        "http://localhost:1",
        "https://x.localhost",
        "ws://[::1]:5",
        "wss://127.9.8.7",
        "http://[::ffff:127.0.0.1]/",
    ],
)
def test_this_machine_is_reached_straight(url):
    """Whatever configuration and environment say: a simulation never goes out. The option is an explicit wish."""
    assert Proxies(None, "http://c", {"ALL_PROXY": "http://e"}).of(url) is None
    assert Proxies("http://o").of(url).host == "o"


@pytest.mark.parametrize(
    ("listed", "url", "found"),
    [
        ("okx.com", "https://okx.com", True),
        ("okx.com", "https://www.okx.com", True),
        (".okx.com", "https://okx.com", True),
        ("*.okx.com", "https://a.b.okx.com", True),
        ("okx.com", "https://nookx.com", False),
        ("OKX.com.", "https://WWW.okx.COM.", True),
        ("a, b okx.com", "https://okx.com", True),
        ("*", "https://anything", True),
        ("a,*", "https://anything", True),
        ("okx.com:443", "wss://ws.okx.com", True),
        ("okx.com:8443", "wss://ws.okx.com", False),
        ("okx.com:8443", "wss://ws.okx.com:8443", True),
        ("okx.com:80", "ws://ws.okx.com", True),
        ("10.0.0.7", "http://10.0.0.7:99", True),
        ("10.0.0.7:98", "http://10.0.0.7:99", False),
        ("10.0.0.0/8", "http://10.200.0.7", True),
        ("10.0.0.7/8", "http://11.0.0.7", False),
        ("0.0.7", "http://10.0.0.7", False),
        ("fd00::/8", "http://[fd12::1]", True),
        ("[fd12::1]", "http://[fd12::1]:5", True),
        ("fd12::1", "http://[fd12::1]:5", True),
        ("[fd12::1]:5", "http://[fd12::1]:5", True),
        ("[fd12::1]:6", "http://[fd12::1]:5", False),
        ("10.0.0.0/8", "http://ten.example", False),
        ("", "https://okx.com", False),
        (",, ,", "https://okx.com", False),
        (".", "https://okx.com", False),
    ],
)  # fmt: skip
def test_no_proxy(listed, url, found):
    """Exact, suffix with and without the dot, ports, addresses and networks, everything."""
    assert excepted(urlsplit(url), listed) is found
