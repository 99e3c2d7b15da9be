//! Responses of backends, well formed, broken and cut anywhere.

use proptest::prelude::*;

use super::*;
use crate::block::BlockPool;
use crate::upstream::chunked::ChunkedError;

const LIMITS: ResponseLimits =
    ResponseLimits { head_bytes_max: 3000, headers_max: 20, body_bytes_max: 5000, headroom: 26 };

fn pool() -> BlockPool {
    BlockPool::new(1 << 20)
}

/// Everything that a response came to, with the body copied out and its block returned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    reuse: Reuse,
}

fn body_bytes(
    body: Body,
    input: &[u8],
    limits: &ResponseLimits,
    blocks: &mut BlockPool,
) -> Vec<u8> {
    match body {
        Body::Empty => Vec::new(),
        Body::InPlace(range) => {
            assert!(!range.is_empty() && range.start >= limits.headroom, "{range:?}");
            input[range].to_vec()
        }
        Body::Assembled(mut block) => {
            assert!(!block.is_empty());
            let bytes = block.as_slice().to_vec();
            block.prepend(limits.headroom);
            blocks.give_back(block);
            bytes
        }
    }
}

/// Reads the responses that `inputs` hold, then the end of the connection.
fn read<'a>(
    inputs: impl IntoIterator<Item = &'a [u8]>,
    limits: &ResponseLimits,
) -> (Vec<Answer>, Result<&'static str, HttpError>) {
    let (mut reader, mut blocks) = (ResponseReader::new(), pool());
    let mut answers = Vec::new();
    for input in inputs {
        let mut rest = input;
        while !rest.is_empty() {
            match reader.next(rest, limits, &mut blocks) {
                Ok((used, Progress::NeedMore)) => {
                    assert_eq!(used, rest.len());
                    rest = &[];
                }
                Ok((used, Progress::Complete { status, body, reuse })) => {
                    let body = body_bytes(body, rest, limits, &mut blocks);
                    answers.push(Answer { status, body, reuse });
                    rest = &rest[used..];
                }
                Err(error) => {
                    assert_eq!(blocks.in_use(), 0, "an error returns every block");
                    return (answers, Err(error));
                }
            }
        }
    }
    let end = match reader.on_eof(&mut blocks) {
        Eof::NoResponse => "none",
        Eof::Cut => "cut",
        Eof::Complete { status, body } => {
            let body = body_bytes(body, &[], limits, &mut blocks);
            answers.push(Answer { status, body, reuse: Reuse::Close });
            "complete"
        }
    };
    assert_eq!(blocks.in_use(), 0, "every block is returned");
    (answers, Ok(end))
}

/// The one answer in `text`, followed by the end of the connection.
fn one(text: &str) -> Answer {
    let (mut answers, end) = read([text.as_bytes()], &LIMITS);
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}

fn error(text: &str) -> HttpError {
    let (answers, end) = read([text.as_bytes()], &LIMITS);
    assert_eq!(answers, [], "{text:?}");
    end.expect_err(text)
}

fn answer(status: u16, body: &str, reuse: Reuse) -> Answer {
    Answer { status, body: body.into(), reuse }
}

#[test]
fn a_response_in_one_input_stays_in_place() {
    let input = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let (mut reader, mut blocks) = (ResponseReader::new(), pool());
    let (used, progress) = reader.next(input, &LIMITS, &mut blocks).unwrap();
    assert_eq!(used, input.len());
    let Progress::Complete { status: 200, body: Body::InPlace(range), reuse: Reuse::Keep } =
        progress
    else {
        panic!("{progress:?}");
    };
    assert_eq!(&input[range], b"hello");
    assert_eq!(blocks.allocated(), 0);
}

#[test]
fn a_body_without_headroom_in_front_is_assembled() {
    let input = b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello";
    let at = input.len() - 5;
    for (headroom, in_place) in [(at, true), (at + 1, false)] {
        let (mut reader, mut blocks) = (ResponseReader::new(), pool());
        let limits = ResponseLimits { headroom, ..LIMITS };
        let (_, progress) = reader.next(input, &limits, &mut blocks).unwrap();
        let Progress::Complete { body, .. } = progress else { panic!("incomplete") };
        assert_eq!(matches!(body, Body::InPlace(_)), in_place);
        assert_eq!(body_bytes(body, input, &limits, &mut blocks), b"hello");
    }
}

#[test]
fn a_body_in_pieces_is_assembled_in_one_block_of_its_size() {
    let (mut reader, mut blocks) = (ResponseReader::new(), pool());
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n";
    assert!(matches!(reader.next(head, &LIMITS, &mut blocks), Ok((_, Progress::NeedMore))));
    assert_eq!(blocks.in_use(), 0, "a head alone holds no block");
    for _ in 0..3 {
        assert!(matches!(
            reader.next(&[7; 1000], &LIMITS, &mut blocks),
            Ok((1000, Progress::NeedMore))
        ));
        assert_eq!(blocks.in_use(), 4096);
    }
    let (used, progress) = reader.next(&[7; 1001], &LIMITS, &mut blocks).unwrap();
    let Progress::Complete { body: Body::Assembled(block), reuse: Reuse::Surplus, .. } = progress
    else {
        panic!("{progress:?}");
    };
    assert_eq!((used, block.len()), (1000, 4000));
}

#[test]
fn chunked_bodies_are_assembled() {
    let text = "HTTP/1.1 201 Created\r\ntransfer-encoding: Chunked\r\n\r\n5;x\r\nhello\r\n1\r\n!\r\n0\r\nT: v\r\n\r\n";
    assert_eq!(one(text), answer(201, "hello!", Reuse::Keep));
    let empty = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(one(empty), answer(200, "", Reuse::Keep));
    let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    assert_eq!(error(bad), HttpError::Chunked(ChunkedError::Size));
}

#[test]
fn a_body_without_framing_ends_with_the_connection() {
    assert_eq!(one("HTTP/1.1 200 OK\r\n\r\nhello"), answer(200, "hello", Reuse::Close));
    assert_eq!(one("HTTP/1.0 404 Not Found\r\n\r\n"), answer(404, "", Reuse::Close));
}

#[test]
fn the_connection_is_kept_unless_the_backend_says_otherwise() {
    let reuse = |version: &str, field: &str| {
        one(&format!("HTTP/{version} 200 OK\r\nContent-Length: 1\r\n{field}\r\nx")).reuse
    };
    assert_eq!(reuse("1.1", ""), Reuse::Keep);
    assert_eq!(reuse("1.1", "Connection: keep-alive\r\n"), Reuse::Keep);
    assert_eq!(reuse("1.1", "connection: CLOSE\r\n"), Reuse::Close);
    assert_eq!(reuse("1.1", "Connection: foo, close\r\n"), Reuse::Close);
    assert_eq!(reuse("1.0", ""), Reuse::Close);
    assert_eq!(reuse("1.0", "Connection: keep-alive\r\n"), Reuse::Close);
}

#[test]
fn statuses_without_a_body_end_with_their_head() {
    for status in [204, 304] {
        for field in ["", "Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n"] {
            let text = format!("HTTP/1.1 {status} X\r\n{field}\r\n");
            assert_eq!(one(&text), answer(status, "", Reuse::Keep));
        }
    }
    assert_eq!(one("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), answer(200, "", Reuse::Keep));
}

#[test]
fn interim_responses_are_skipped_within_a_bound() {
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    for count in [1, 8] {
        assert_eq!(one(&(interim.repeat(count) + last)), answer(200, "ok", Reuse::Keep));
    }
    assert_eq!(error(&(interim.repeat(9) + last)), HttpError::Interim);
    assert_eq!(error("HTTP/1.1 101 Switching Protocols\r\n\r\n"), HttpError::Interim);
}

#[test]
fn the_interim_count_starts_anew_with_each_response() {
    let response = "HTTP/1.1 100 Continue\r\n\r\n".repeat(8) + "HTTP/1.1 204 No Content\r\n\r\n";
    let inputs = [response.as_bytes(), response.as_bytes()];
    assert_eq!(read(inputs, &LIMITS).0.len(), 2);
}

#[test]
fn content_lengths_must_agree() {
    let body = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\nabc");
    for same in ["Content-Length: 3, 3\r\n", "Content-Length: 3\r\nContent-Length: 003\r\n"] {
        assert_eq!(one(&body(same)), answer(200, "abc", Reuse::Keep), "{same}");
    }
    for bad in [
        "Content-Length: 3\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 3, 2\r\n",
        "Content-Length: 3,\r\n",
        "Content-Length:\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 3 3\r\n",
        "Content-Length: 0x3\r\n",
    ] {
        assert_eq!(error(&body(bad)), HttpError::Framing, "{bad}");
    }
}

#[test]
fn contradictory_transfer_codings_are_refused() {
    for fields in [
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        assert_eq!(
            error(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")),
            HttpError::Framing,
            "{fields}"
        );
    }
    assert_eq!(error("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), HttpError::Framing);
}

#[test]
fn bodies_are_bounded_however_they_are_framed() {
    let max = LIMITS.body_bytes_max;
    let bodies: [fn(usize) -> String; 3] = [
        |len| format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{}", "x".repeat(len)),
        |len| {
            let chunks = format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(len / 1024);
            let rest = len % 1024;
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{rest:x}\r\n{}\r\n0\r\n\r\n",
                "x".repeat(rest)
            )
        },
        |len| format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(len)),
    ];
    for body in bodies {
        assert_eq!(one(&body(max)).body.len(), max);
        assert_eq!(error(&body(max + 1)), HttpError::BodyTooLong);
    }
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n";
    assert_eq!(error(endless), HttpError::BodyTooLong);
}

#[test]
fn heads_are_bounded_in_bytes_and_fields() {
    let text = |len: usize| {
        let fixed = "HTTP/1.1 204 X\r\nX: \r\n\r\n".len();
        format!("HTTP/1.1 204 X\r\nX: {}\r\n\r\n", "x".repeat(len - fixed))
    };
    let max = LIMITS.head_bytes_max;
    assert_eq!(one(&text(max)).status, 204);
    assert_eq!(error(&text(max + 1)), HttpError::HeadTooLong);
    let pieces = |text: &str| read(text.as_bytes().chunks(700), &LIMITS).1;
    assert_eq!(pieces(&text(max)), Ok("none"));
    assert_eq!(pieces(&text(max + 1)), Err(HttpError::HeadTooLong));
    let fields = |count: usize| format!("HTTP/1.1 204 X\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(one(&fields(LIMITS.headers_max)).status, 204);
    assert_eq!(error(&fields(LIMITS.headers_max + 1)), HttpError::HeadTooLong);
}

#[test]
fn status_lines_are_strict() {
    assert_eq!(one("HTTP/1.1 204\r\n\r\n").status, 204);
    assert_eq!(one("HTTP/1.1 204 \r\n\r\n").status, 204);
    for bad in [
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 2000\r\n\r\n",
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 600 X\r\n\r\n",
        "HTTP/1.1  200 X\r\n\r\n",
        "HTTP/1.1 2x0 X\r\n\r\n",
        "HTTP/1.2 200 X\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/2",
        "SSH-2.0",
        "\r\n",
    ] {
        assert_eq!(error(bad), HttpError::StatusLine, "{bad:?}");
    }
}

#[test]
fn broken_fields_are_refused() {
    for bad in
        ["X : y\r\n", " X: y\r\n", "X: y\r\n z\r\n", "X: y\n", "X: a\rb\r\n", "X: \0\r\n", "X\r\n"]
    {
        assert_eq!(error(&format!("HTTP/1.1 204 X\r\n{bad}\r\n")), HttpError::Field, "{bad:?}");
    }
}

#[test]
fn bytes_behind_a_response_are_surplus_and_not_consumed() {
    let (mut reader, mut blocks) = (ResponseReader::new(), pool());
    for (field, expected) in [("", Reuse::Surplus), ("Connection: close\r\n", Reuse::Close)] {
        let text =
            format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n{field}\r\nxHTTP/1.1 200 OK\r\n");
        let (used, progress) = reader.next(text.as_bytes(), &LIMITS, &mut blocks).unwrap();
        assert!(text[..used].ends_with("\r\n\r\nx"));
        assert!(matches!(progress, Progress::Complete { reuse, .. } if reuse == expected));
    }
}

#[test]
fn the_end_of_the_connection_tells_nothing_cut_and_whole_apart() {
    let end = |text: &str| read([text.as_bytes()], &LIMITS).1.unwrap();
    assert_eq!(end(""), "none");
    assert_eq!(end("H"), "cut");
    assert_eq!(end("HTTP/1.1 100 Continue\r\n\r\n"), "cut");
    assert_eq!(end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx"), "cut");
    assert_eq!(end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"), "cut");
    assert_eq!(end("HTTP/1.1 200 OK\r\n\r\nx"), "complete");
    assert_eq!(end("HTTP/1.1 204 No Content\r\n\r\n"), "none");
}

#[test]
fn an_empty_input_is_no_response() {
    let (mut reader, mut blocks) = (ResponseReader::new(), pool());
    assert!(matches!(reader.next(b"", &LIMITS, &mut blocks), Ok((0, Progress::NeedMore))));
    assert!(matches!(reader.on_eof(&mut blocks), Eof::NoResponse));
}

#[test]
fn a_full_pool_fails_the_response_and_leaks_nothing() {
    let mut reader = ResponseReader::new();
    let mut blocks = BlockPool::new(2048);
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n";
    assert!(reader.next(head, &LIMITS, &mut blocks).is_ok());
    let chunk = [&[b'x'; 1024][..], b"\r\n400\r\n"].concat();
    assert!(reader.next(&chunk, &LIMITS, &mut blocks).is_ok());
    assert_eq!(blocks.in_use(), 2048);
    assert_eq!(reader.next(&chunk, &LIMITS, &mut blocks).unwrap_err(), HttpError::NoBlock);
    assert_eq!(blocks.in_use(), 0);
    let (_, progress) = reader.next(b"HTTP/1.1 204 X\r\n\r\n", &LIMITS, &mut blocks).unwrap();
    assert!(matches!(progress, Progress::Complete { status: 204, .. }));
}

#[test]
fn an_abandoned_response_returns_its_block() {
    let (mut reader, mut blocks) = (ResponseReader::new(), pool());
    for start in ["HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nx"] {
        assert!(reader.next(start.as_bytes(), &LIMITS, &mut blocks).is_ok());
        assert!(blocks.in_use() > 0);
        reader.abandon(&mut blocks);
        assert_eq!(blocks.in_use(), 0);
    }
}

#[test]
fn a_reader_is_small_enough_to_live_in_a_connection() {
    assert!(size_of::<ResponseReader>() <= 80, "{}", size_of::<ResponseReader>());
}

/// How the test's own backend frames a body.
#[derive(Debug, Clone)]
enum Coded {
    Length,
    Chunks(usize),
    Close,
}

#[derive(Debug, Clone)]
struct Response {
    interim: usize,
    status: u16,
    fields: Vec<&'static str>,
    body: Vec<u8>,
    coded: Coded,
}

impl Response {
    fn bytes(&self) -> Vec<u8> {
        let mut out = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(self.interim);
        out.extend_from_slice(format!("HTTP/1.1 {} Words of it\r\n", self.status).as_bytes());
        for field in &self.fields {
            out.extend_from_slice(field.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        match &self.coded {
            Coded::Length => {
                out.extend_from_slice(
                    format!("Content-Length:{}\r\n\r\n", self.body.len()).as_bytes(),
                );
                out.extend_from_slice(&self.body);
            }
            Coded::Chunks(size) => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in self.body.chunks(*size) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
            }
            Coded::Close => {
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(&self.body);
            }
        }
        out
    }

    fn answer(&self) -> Answer {
        let reuse = if matches!(self.coded, Coded::Close) { Reuse::Close } else { Reuse::Keep };
        Answer { status: self.status, body: self.body.clone(), reuse }
    }
}

fn response() -> impl Strategy<Value = Response> {
    let fields = prop::sample::subsequence(
        vec!["Server: x", "Date: y", "Connection: keep-alive", "X:\u{e9}"],
        0..4,
    );
    let coded =
        prop_oneof![Just(Coded::Length), (1usize..900).prop_map(Coded::Chunks), Just(Coded::Close)];
    let status = prop::sample::select(vec![200u16, 201, 400, 404, 500]);
    let body = prop::collection::vec(any::<u8>(), 0..3000);
    (0usize..3, status, fields, body, coded).prop_map(|(interim, status, fields, body, coded)| {
        Response { interim, status, fields, body, coded }
    })
}

/// `bytes` cut into pieces of the given lengths, over and over.
fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let pieces = lengths.iter().cycle().map_while(|len| {
        let (piece, after) = rest.split_at(rest.len().min(*len));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    pieces.collect()
}

proptest! {
    #[test]
    fn any_split_reads_the_same_answers(
        responses in prop::collection::vec(response(), 1..4),
        lengths in prop_oneof![
            prop::collection::vec(1usize..2048, 1..9),
            prop::collection::vec(1usize..9, 1..9),
        ],
    ) {
        // Responses follow each other as on a kept connection: each begins an input of its own.
        let closes = responses.iter().position(|response| matches!(response.coded, Coded::Close));
        let responses = &responses[..closes.map_or(responses.len(), |at| at + 1)];
        let texts: Vec<_> = responses.iter().map(Response::bytes).collect();
        let expected: Vec<_> = responses.iter().map(Response::answer).collect();
        let end = if closes.is_some() { "complete" } else { "none" };
        let whole = read(texts.iter().map(Vec::as_slice), &LIMITS);
        prop_assert_eq!(&whole, &(expected, Ok(end)));
        let pieces = read(texts.iter().flat_map(|text| cut(text, &lengths)), &LIMITS);
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn hostile_bytes_never_panic_and_split_alike(
        text in "HTTP/1[.][01] [2-5]0[0-4] x\r\n((Content-Length: [0-9]{1,2}|Transfer-Encoding: chunked|Connection: close|X: y)\r\n){0,3}\r\n([0-9a-f;\r\n]|\r\n){0,30}",
        damage in prop::option::of((0usize..80, any::<u8>())),
    ) {
        let mut bytes = text.into_bytes();
        if let Some((at, byte)) = damage
            && let Some(place) = bytes.get_mut(at)
        {
            *place = byte;
        }
        // Surplus is seen only when it comes in the same input: compare the rest.
        let plain = |(mut answers, end): (Vec<Answer>, Result<&'static str, HttpError>)| {
            answers.truncate(1);
            answers.iter_mut().for_each(|answer| answer.reuse = Reuse::Keep);
            let end = answers.is_empty().then_some(end);
            (answers, end)
        };
        let whole = plain(read([&bytes[..]], &LIMITS));
        let bytewise = plain(read(bytes.chunks(1), &LIMITS));
        prop_assert_eq!(whole, bytewise);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for start in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] {
            let (answers, _) = read([start.as_bytes(), &bytes[..]], &LIMITS);
            prop_assert!(answers.iter().all(|answer| answer.body.len() <= bytes.len()));
        }
    }
}
