//! Responses of HTTP backends: any cut comes to the same answers, within the bounds, and every block
//! comes back.

use std::iter;

use corelane_shard::block::BlockPool;
use corelane_shard::upstream::http::{
    Body, Eof, HttpError, Progress, ResponseLimits, ResponseReader, Reuse,
};

use crate::receiver::pieces;

const LIMITS: ResponseLimits =
    ResponseLimits { head_bytes_max: 600, headers_max: 12, body_bytes_max: 3000, headroom: 26 };

/// One byte says how the stream is cut; the rest is what a backend sends before it closes.
pub fn http(input: &[u8]) {
    let Some((&cuts, bytes)) = input.split_first() else { return };
    let whole = read(bytes, iter::repeat(usize::MAX));
    assert_eq!(read(bytes, pieces(cuts)), whole);
    agrees_with_another(bytes, &whole);
}

/// All that came, and what the end of the connection was.
#[derive(Debug, PartialEq, Eq)]
struct Conversation {
    answers: Vec<Answer>,
    end: Result<End, HttpError>,
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    kept: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Between,
    Cut,
    OfBody,
}

fn read(bytes: &[u8], lengths: impl Iterator<Item = usize>) -> Conversation {
    let (mut reader, mut blocks) = (ResponseReader::new(), BlockPool::new(1 << 20));
    let mut answers = Vec::new();
    let mut rest = bytes;
    for len in lengths {
        let (piece, later) = rest.split_at(len.min(rest.len()));
        if let Err(error) = read_piece(&mut reader, piece, &mut blocks, &mut answers) {
            assert_eq!(blocks.in_use(), 0, "an error returns every block");
            assert!(reader.is_untouched(), "an error leaves a new reader");
            return Conversation { answers, end: Err(error) };
        }
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let end = match reader.on_eof(&mut blocks) {
        Eof::NoResponse => End::Between,
        Eof::Cut => End::Cut,
        Eof::Complete { status, body } => {
            let body = take(body, &[], &mut blocks);
            answers.push(Answer { status, body, kept: false });
            End::OfBody
        }
    };
    assert_eq!(blocks.in_use(), 0, "every block comes back");
    Conversation { answers, end: Ok(end) }
}

fn read_piece(
    reader: &mut ResponseReader,
    piece: &[u8],
    blocks: &mut BlockPool,
    answers: &mut Vec<Answer>,
) -> Result<(), HttpError> {
    let mut rest = piece;
    while !rest.is_empty() {
        let (used, progress) = reader.next(rest, &LIMITS, blocks)?;
        match progress {
            Progress::NeedMore => {
                assert_eq!(used, rest.len(), "whoever needs more has taken all");
                return Ok(());
            }
            Progress::Complete { status, body, reuse } => {
                assert!(used > 0 && used <= rest.len(), "a response has bytes");
                assert!((200..600).contains(&status));
                let body = take(body, rest, blocks);
                // Whether more follows is seen only where it comes in the same piece.
                let kept = matches!(reuse, Reuse::Keep | Reuse::Surplus);
                assert_eq!(reuse == Reuse::Surplus, kept && used < rest.len());
                answers.push(Answer { status, body, kept });
                rest = &rest[used..];
            }
        }
    }
    Ok(())
}

fn take(body: Body, input: &[u8], blocks: &mut BlockPool) -> Vec<u8> {
    let bytes = match body {
        Body::Empty => return Vec::new(),
        Body::InPlace(range) => {
            assert!(range.start >= LIMITS.headroom, "room for what it is passed on under");
            input[range].to_vec()
        }
        Body::Assembled(mut block) => {
            let bytes = block.as_slice().to_vec();
            block.prepend(LIMITS.headroom);
            blocks.give_back(block);
            bytes
        }
    };
    assert!(!bytes.is_empty() && bytes.len() <= LIMITS.body_bytes_max, "{}", bytes.len());
    bytes
}

/// Whatever is answered began with a head that another parser reads the same.
fn agrees_with_another(bytes: &[u8], conversation: &Conversation) {
    let mut rest = bytes;
    let Some(first) = conversation.answers.first() else { return };
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(len)) = response.parse(rest) else {
            panic!("strict heads are heads: {:?}", String::from_utf8_lossy(rest));
        };
        // Interim ones stand in front.
        if response.code.is_some_and(|code| code >= 200) {
            assert_eq!(response.code, Some(first.status));
            return;
        }
        rest = &rest[len..];
    }
}
