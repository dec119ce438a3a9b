//! TLS for PostgreSQL, and for Redis: turns `sslmode` and the certificate files of a URL into a rustls connector. Called
//! once when a store is opened; later changes of the files need a reload.
//!
//! As in libpq, `require` looks at the certificate only if `sslrootcert` is given, and then at its
//! authority, not its name. Unlike libpq, the name must be in the certificate's subjectAltName.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error as TlsError,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;
use super::url::{PostgresUrl, RootCert, SslMode};

/// How closely a server's certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// The connector for a URL; it goes unused where the URL or the server wants no TLS.
///
/// # Errors
/// [`StoreError::Unavailable`] naming the file that can't be used.
pub(crate) fn connector(url: &PostgresUrl) -> Result<MakeRustlsConnect, StoreError> {
    configure(url)
        .map(MakeRustlsConnect::new)
        .map_err(StoreError::Unavailable)
}

fn configure(url: &PostgresUrl) -> Result<ClientConfig, String> {
    let check = match (url.sslmode, &url.sslrootcert) {
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer, _) => Check::Nothing,
        (SslMode::Require, RootCert::File(_)) | (SslMode::VerifyCa, _) => Check::Authority,
        (SslMode::Require, _) => Check::Nothing,
        (SslMode::VerifyFull, _) => Check::AuthorityAndName,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let authority = match check {
        Check::Nothing => None,
        Check::Authority | Check::AuthorityAndName => {
            let roots = Arc::new(roots(&url.sslrootcert)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            Some(
                verifier
                    .build()
                    .map_err(|error| format!("the trusted certificates: {error}"))?,
            )
        }
    };
    let verifier: Arc<dyn ServerCertVerifier> = match (check, authority) {
        (Check::AuthorityAndName, Some(authority)) => authority,
        (_, authority) => Arc::new(Lenient {
            authority,
            provider: provider.clone(),
        }),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let identity = url.sslcert.as_deref().zip(url.sslkey.as_deref());
    identify(config, identity)
}

/// For a server whose authority and name are checked: by the authorities of this file, or by the system's. `identity` is our own
/// certificate and its key.
///
/// # Errors
/// The file that can't be used, in words.
pub(crate) fn verified(
    root: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, String> {
    let roots = roots(&root.map_or(RootCert::System, |path| RootCert::File(path.to_owned())))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    identify(config, identity)
}

/// Ends a configuration with our own certificate, if there is one.
fn identify(
    config: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, String> {
    let Some((cert, key)) = identity else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates(cert)?;
    let der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("sslkey {}: {}", key.display(), pem_text(&error)))?;
    config
        .with_client_auth_cert(chain, der)
        .map_err(|error| format!("sslcert {}: {error}", cert.display()))
}

fn roots(rootcert: &RootCert) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match rootcert {
        RootCert::File(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("sslrootcert {}: {error}", path.display()))?;
            }
        }
        RootCert::Unset | RootCert::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "the system has no trusted certificates; name a file with sslrootcert"
                        .to_owned(),
                );
            }
        }
    }
    Ok(roots)
}

/// All certificates of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let explain = |error| format!("certificate file {}: {}", path.display(), pem_text(&error));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(explain)?
        .collect::<Result<_, _>>()
        .map_err(explain)?;
    match certificates.is_empty() {
        true => Err(format!(
            "certificate file {}: it holds no certificate",
            path.display()
        )),
        false => Ok(certificates),
    }
}

/// Words for a PEM error; its own could quote a line of a key file.
fn pem_text(error: &rustls_pki_types::pem::Error) -> String {
    match error {
        rustls_pki_types::pem::Error::Io(io) => io.to_string(),
        rustls_pki_types::pem::Error::NoItemsFound => "it holds none in PEM form".to_owned(),
        _ => "it is not in PEM form".to_owned(),
    }
}

/// Accepts any name, and any authority too where none is asked for. That the server holds the key of the
/// certificate it shows is checked all the same.
#[derive(Debug)]
struct Lenient {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(authority) = &self.authority else {
            return Ok(ServerCertVerified::assertion());
        };
        // The name is checked last, so this error says that all else is well.
        match authority.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
