//! Goal: a fault is read as it is documented and written back alike, and a wrong one is refused with
//! the field, the value and the rule. Method: tables of texts.

use super::*;

fn read_and_checked(json: &str) -> Result<Fault, FaultError> {
    let fault = Fault::from_json(json.as_bytes())?;
    fault.check()?;
    Ok(fault)
}

#[test]
fn every_kind_is_read_and_written_back() {
    for json in [
        r#"{"kind":"kill_actor","actor":"group","group":3,"mode":"panic"}"#,
        r#"{"kind":"kill_actor","actor":"peer_link","peer":2,"mode":"stop"}"#,
        r#"{"kind":"stall_actor","actor":"log_writer","for":"2s"}"#,
        r#"{"kind":"link","peer":2,"direction":"both","cut":true}"#,
        r#"{"kind":"link","peer":2,"direction":"in","lane":"append","delay":"50ms","jitter":"10ms","loss_per_mille":100,"duplicate_per_mille":1,"reorder_per_mille":1000,"bandwidth_bytes_per_s":1000}"#,
        r#"{"kind":"disk","store":"both","delay":"100ms","stall":true,"error":"eio","full":true}"#,
        r#"{"kind":"clock","step":"+1h"}"#,
        r#"{"kind":"clock","step":"-30s"}"#,
    ] {
        let fault = read_and_checked(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(serde_json::to_string(&fault).unwrap(), json);
        // As a scenario's file has it, within something else.
        assert_eq!(serde_json::from_str::<Fault>(json).unwrap(), fault);
        assert!(json.contains(&format!(r#""kind":"{}""#, fault.kind())));
    }
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_the_rule() {
    for (json, parts) in [
        (r#"{"kind":"#, ["fault", "EOF", ""]),
        (r#"{"peer":2}"#, ["kind", "null", "must be kill_actor"]),
        (r#"{"kind":"flood"}"#, ["kind", "flood", "must be kill_actor"]),
        (r#"{"kind":"kill_actor","actor":"grupp","mode":"stop"}"#, ["actor", "grupp", "watchdog"]),
        (
            r#"{"kind":"kill_actor","actor":"tick","mode":"shoot"}"#,
            ["mode", "shoot", "panic, stop"],
        ),
        (r#"{"kind":"kill_actor","actor":"tick"}"#, ["mode", "missing", ""]),
        (r#"{"kind":"kill_actor","actor":"group","mode":"stop"}"#, ["group", "none", "whose"]),
        (
            r#"{"kind":"kill_actor","actor":"tick","group":7,"mode":"stop"}"#,
            ["group", "7", "is for"],
        ),
        (r#"{"kind":"kill_actor","actor":"peer_link","mode":"stop"}"#, ["peer", "none", "whose"]),
        (r#"{"kind":"kill_actor","actor":"tick","peer":2,"mode":"stop"}"#, ["peer", "2", "is for"]),
        (r#"{"kind":"stall_actor","actor":"tick","for":"0s"}"#, ["for", "0s", "longer"]),
        (r#"{"kind":"stall_actor","actor":"tick","for":"2h"}"#, ["for", "2h", "at most 1h"]),
        (r#"{"kind":"stall_actor","actor":"tick","for":"soon"}"#, ["for", "soon", "duration"]),
        (r#"{"kind":"link","peer":0,"direction":"in"}"#, ["peer", "0", "from 1"]),
        (r#"{"kind":"link","peer":2,"direction":"up"}"#, ["direction", "up", "both"]),
        (r#"{"kind":"link","peer":2,"direction":"in"}"#, ["link", "none", "must disturb"]),
        (
            r#"{"kind":"link","peer":2,"direction":"in","loss_per_mille":1001}"#,
            ["loss_per_mille", "1001", "0 to 1000"],
        ),
        (r#"{"kind":"link","peer":2,"direction":"in","lane":"fast"}"#, ["lane", "fast", "append"]),
        (r#"{"kind":"link","peer":2,"direction":"in","speed":3}"#, ["speed", "unknown", "delay"]),
        (r#"{"kind":"disk","store":"log"}"#, ["disk", "none", "must disturb"]),
        (r#"{"kind":"disk","store":"log","error":"enospc"}"#, ["error", "enospc", "eio"]),
        (r#"{"kind":"clock","step":"1h"}"#, ["step", "1h", "sign"]),
        (r#"{"kind":"clock","step":"+0s"}"#, ["step", "+0s", "zero"]),
        (r#"{"kind":"clock","step":"-9000days"}"#, ["step", "-24", "a year"]),
    ] {
        let error = read_and_checked(json).expect_err(json).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{json}: {error}");
    }
}
