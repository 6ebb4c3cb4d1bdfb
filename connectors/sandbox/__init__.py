"""Vendors on loopback: servers that speak a vendor's real wire protocol, for the demo, tests, training and CI.

What it is
    `databento_server.DatabentoSandbox` is an HTTPS server on 127.0.0.1 with which the unmodified `databento` client
    works: `timeseries.get_range` (DBN v3, zstd, streamed), record counts, costs and sizes, dataset ranges,
    conditions, schemas, unit prices, and symbology. It plays one of two markets:

    * an invented one (`_generated`, `_tape`): a plausible order book for any symbol and session since 2018, always
      the same for the same symbol and day, of any length in constant memory;
    * a folder of DBN files (`_replay`), served as they are.

    It fails on request (`faults`): refusals, late answers, broken, short, damaged and stalled streams, bad days.
    `python -m connectors.sandbox databento` runs it as a process of its own, as does
    `databento_process.SandboxProcess` from Python.

    `ib_gateway.IbGateway` is a TCP server on 127.0.0.1 that speaks the TWS API of server versions 157 to 178, so that
    unmodified `ib_insync` and `ib_async` clients connect to it: handshake, accounts, instrument details, market depth
    with and without market makers, historical bars, an account without positions and orders. Its depth is

    * invented (`_ib_market`): an order book that walks at random, the same for the same seed and symbol;
    * scripted: messages one by one, possible or not;
    * a load (`_ib_load`): up to 20,000 messages a second and more, encoded beforehand.

    It keeps the rows that a client must hold (`book`), every depth message it sent, and the vendor's rules that the
    client broke (`violations`). It fails on request (`_ib_faults`, and the methods of `_ib_controls`): error codes,
    lost connections and farms, silence, slowness, refused ids and permissions, late messages.

    Its bars (`_ib_bars`) are made of every second of every session since 2000 (`_ib_bars_market`): seconds make minutes
    and minutes make hours; `bars_truth` says what they must be. It enforces the vendor's pacing rules (`_ib_pacing`),
    with a fast clock if so wished, counts durations in trading time as the vendor does or by the calendar, and can be
    told which moment it is.

    `python -m connectors.sandbox ib-gateway` runs it as a process of its own, as does
    `ib_gateway_process.IbGatewayProcess` from Python.

What it is not
    Not the vendor's data: every invented price, size and instrument id comes from a random generator, and no symbol's
    numbers resemble its real ones. Not the vendor's prices: `usd_per_gb` is a round number. Not the vendor's limits:
    there is no rate limit unless a fault asks for one. Schemas other than mbp-1 and mbp-10, batch jobs and live data
    are absent. Error cases are those seen in the vendor's documentation and in public reports; `_request` marks the
    few that were not seen.

    The gateway trades nothing: orders are refused as by a read-only API. Quotes, live bars, bars above an hour, ticks,
    news and scanners are absent: such a request gets error 321. It knows US stocks alone, and for depth neither
    holidays nor closing hours: depth flows at any time. What it does follows the client libraries and the vendor's
    documentation, not a recording.

How a client is pointed at it
    Databento: the environment of `env()`: `DATABENTO_GATEWAY`, `DATABENTO_API_KEY`, and `REQUESTS_CA_BUNDLE` with the
    certificate authority that was made at the start, is trusted by that process alone, and is deleted at the end. Any
    key that is not empty is accepted. The gateway: `host` and `port`, or the environment of `env()`: `IB_HOST` and
    `IB_PORT`; any client id. Its one account is `DUSANDBOX`.

What it can be asked besides
    Databento: `GET /sandbox/requests` (what it was asked), `GET /sandbox/billing` (bytes streamed and their price), and
    `GET`, `POST` (a JSON list of faults, as text or as objects) and `DELETE /sandbox/faults`. The gateway: a second
    port takes controls as JSON lines (`_ib_control`).
"""
