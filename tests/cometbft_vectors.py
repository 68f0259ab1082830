"""Every message of ABCI 2.0 with its bytes as another implementation writes them.

The bytes were made once with the protobuf 7.36.2 of Google, from proto/tendermint of CometBFT v0.38.25, and are frozen
here: length, then the `Request` or `Response`.
"""

from typing import Any, Final

from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import values as v

KEY = bytes(range(32))
HASH = bytes.fromhex("abababab")
ADDRESS = bytes.fromhex("0102")

REQUESTS: Final[list[tuple[Any, str]]] = [
    (
        m.RequestEcho("hello"),
        "090a070a0568656c6c6f",
    ),
    (
        m.RequestFlush(),
        "021200",
    ),
    (
        m.RequestInfo("0.38.25", 11, 8, "2.0.0"),
        "161a140a07302e33382e3235100b18082205322e302e30",
    ),
    (
        m.RequestInitChain(
            v.Timestamp(1_700_000_000, 120_000_000),
            "net-0123",
            v.ConsensusParams(
                v.BlockParams(4194304, -1),
                v.EvidenceParams(100000, v.Duration(172800), 262144),
                v.ValidatorParams(("ed25519",)),
                v.VersionParams(1),
                v.ABCIParams(0),
            ),
            (
                v.ValidatorUpdate(v.PublicKey(ed25519=KEY), 1),
                v.ValidatorUpdate(v.PublicKey(secp256k1=b"\x02" * 33), 10),
            ),
            b"{}",
            1,
        ),
        "a6012aa3010a0b0880e2cfaa0610809c9c3912086e65742d303132331a330a10088080800210ffffffffffffffffff01120e"
        "08a08d0612040880c60a188080101a090a0765643235353139220208012a0022260a220a20000102030405060708090a0b0c"
        "0d0e0f101112131415161718191a1b1c1d1e1f100122270a2312210202020202020202020202020202020202020202020202"
        "02020202020202020202100a2a027b7d3001",
    ),
    (
        m.RequestQuery(b"\x00\xff", "/accounts", -1, True),
        "1e321c0a0200ff12092f6163636f756e747318ffffffffffffffffff012001",
    ),
    (
        m.RequestCheckTx(b"tx", 1),
        "0842060a0274781001",
    ),
    (
        m.RequestCommit(),
        "025a00",
    ),
    (
        m.RequestListSnapshots(),
        "026200",
    ),
    (
        m.RequestOfferSnapshot(v.Snapshot(1000, 1, 3, HASH, b"meta"), b"app hash"),
        "216a1f0a1308e807100118032204abababab2a046d65746112086170702068617368",
    ),
    (
        m.RequestLoadSnapshotChunk(2**64 - 1, 2**32 - 1, 0),
        "13721108ffffffffffffffffff0110ffffffff0f",
    ),
    (
        m.RequestApplySnapshotChunk(2, b"chunk", "peer"),
        "117a0f080212056368756e6b1a0470656572",
    ),
    (
        m.RequestPrepareProposal(
            1024,
            (b"a", b""),
            v.ExtendedCommitInfo(1, (v.ExtendedVoteInfo(v.Validator(ADDRESS, 1), b"ext", b"sig", 2),)),
            (v.Misbehavior(1, v.Validator(ADDRESS, 1), 7, v.Timestamp(1), 4),),
            8,
            v.Timestamp(2, 999_999_999),
            HASH,
            ADDRESS,
        ),
        "4f82014c08800812016112001a18080112140a060a02010218011a03657874220373696728022212080112060a0201021801"
        "180722020801280428083208080210ff93ebdc033a04abababab42020102",
    ),
    (
        m.RequestProcessProposal(
            (b"a",),
            v.CommitInfo(0, (v.VoteInfo(v.Validator(ADDRESS, 1), 3),)),
            (),
            HASH,
            8,
            v.Timestamp(-1, 5),
            b"next",
            ADDRESS,
        ),
        "358a01320a0161120c120a0a060a020102180118032204abababab2808320d08ffffffffffffffffff0110053a046e65787442020102",
    ),
    (
        m.RequestExtendVote(HASH, 8, v.Timestamp(2), (b"a",), v.CommitInfo(-1), (), b"next", ADDRESS),
        "299201260a04abababab10081a0208022201612a0b08ffffffffffffffffff013a046e65787442020102",
    ),
    (
        m.RequestVerifyVoteExtension(HASH, ADDRESS, 8, b"ext"),
        "149a01110a04abababab1202010218082203657874",
    ),
    (
        m.RequestFinalizeBlock(
            (b"a", b"bc"),
            v.CommitInfo(2),
            (v.Misbehavior(2, v.Validator(ADDRESS, 1), 7, v.Timestamp(1), 4),),
            HASH,
            8,
            v.Timestamp(2),
            b"next",
            ADDRESS,
        ),
        "38a201350a01610a026263120208021a12080212060a020102180118072202080128042204abababab2808320208023a046e"
        "65787442020102",
    ),
]

RESPONSES: Final[list[tuple[Any, str]]] = [
    (
        m.ResponseException("stop"),
        "080a060a0473746f70",
    ),
    (
        m.ResponseEcho("hello"),
        "0912070a0568656c6c6f",
    ),
    (
        m.ResponseFlush(),
        "021a00",
    ),
    (
        m.ResponseInfo("tallystick", "1.0", 1, 8, HASH),
        "1d221b0a0a74616c6c79737469636b1203312e30180120082a04abababab",
    ),
    (
        m.ResponseInitChain(None, (v.ValidatorUpdate(v.PublicKey(ed25519=KEY), 1),), HASH),
        "30322e12260a220a20000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f10011a04abababab",
    ),
    (
        m.ResponseQuery(
            1, "log", "info", -5, b"k", b"v", v.ProofOps((v.ProofOp("type", b"key", b"data"),)), 8, "space"
        ),
        "3e3a3c08011a036c6f672204696e666f28fbffffffffffffffff0132016b3a017642130a110a047479706512036b65791a04"
        "64617461480852057370616365",
    ),
    (
        m.ResponseCheckTx(
            1,
            b"stale_nonce",
            "log",
            "info",
            1,
            -1,
            (v.Event("type", (v.EventAttribute("key", "välue", True),)),),
            "space",
        ),
        "494a470801120b7374616c655f6e6f6e63651a036c6f672204696e666f280130ffffffffffffffffff013a170a0474797065"
        "120f0a036b6579120676c3a46c7565180142057370616365",
    ),
    (
        m.ResponseCommit(300),
        "05620318ac02",
    ),
    (
        m.ResponseListSnapshots((v.Snapshot(1000, 1, 3, HASH, b"meta"), v.Snapshot())),
        "196a170a1308e807100118032204abababab2a046d6574610a00",
    ),
    (
        m.ResponseOfferSnapshot(5),
        "0472020805",
    ),
    (
        m.ResponseLoadSnapshotChunk(b"chunk"),
        "097a070a056368756e6b",
    ),
    (
        m.ResponseApplySnapshotChunk(3, (2, 300), ("peer", "other")),
        "178201140803120302ac021a04706565721a056f74686572",
    ),
    (
        m.ResponsePrepareProposal((b"a", b"bc")),
        "0a8a01070a01610a026263",
    ),
    (
        m.ResponseProcessProposal(2),
        "059201020802",
    ),
    (
        m.ResponseExtendVote(b"ext"),
        "089a01050a03657874",
    ),
    (
        m.ResponseVerifyVoteExtension(1),
        "05a201020801",
    ),
    (
        m.ResponseFinalizeBlock(
            (v.Event("paid"),),
            (v.ExecTxResult(), v.ExecTxResult(1, b"no", "log", "", 0, 0, (), "space")),
            (v.ValidatorUpdate(v.PublicKey(ed25519=KEY), 0),),
            v.ConsensusParams(block=v.BlockParams(1, 2)),
            HASH,
        ),
        "55aa01520a060a047061696412001212080112026e6f1a036c6f67420573706163651a240a220a2000010203040506070809"
        "0a0b0c0d0e0f101112131415161718191a1b1c1d1e1f22060a04080110022a04abababab",
    ),
]
