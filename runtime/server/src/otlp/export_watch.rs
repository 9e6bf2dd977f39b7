//! Export watch: says once that the collector cannot be reached, and once that it can be again.
//!
//! The SDK retries and drops by itself, and its own log is left out of this build: it would repeat.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// An exporter whose failures are heard of.
#[derive(Debug)]
pub(super) struct ExportWatch<E> {
    exporter: E,
    has_failed: AtomicBool,
}

impl<E> ExportWatch<E> {
    pub(super) fn new(exporter: E) -> Self {
        Self { exporter, has_failed: AtomicBool::new(false) }
    }
}

impl<E: SpanExporter> SpanExporter for ExportWatch<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let had_failed = self.has_failed.swap(outcome.is_err(), SeqCst);
        match &outcome {
            Err(error) if !had_failed => {
                tracing::warn!(%error, "traces cannot be exported; they are dropped until they can");
            }
            Ok(()) if had_failed => tracing::info!("traces are exported again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
