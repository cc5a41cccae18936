//! Which name each documented answer gets. How the SDK reads them is for the
//! tests against the stand-in.

use super::*;

#[test]
fn every_documented_error_has_its_name() {
    use Code::*;
    use Service::*;
    for (service, status, code, message, expected) in [
        (
            Sts,
            400,
            "ExpiredTokenException",
            "Token expired",
            IdentityTokenRejected,
        ),
        (
            Sts,
            400,
            "InvalidIdentityToken",
            "No OpenIDConnect provider found in your account for https://issuer.test",
            IdentityProviderMissing,
        ),
        (
            Sts,
            400,
            "InvalidIdentityToken",
            "Couldn't retrieve verification key from your identity provider, please reference \
             AssumeRoleWithWebIdentity documentation for requirements",
            IdentityProviderUnreachable,
        ),
        (
            Sts,
            400,
            "InvalidIdentityToken",
            "Incorrect token audience",
            IdentityTokenRejected,
        ),
        (
            Sts,
            400,
            "IDPCommunicationError",
            "",
            IdentityProviderUnreachable,
        ),
        (Sts, 403, "IDPRejectedClaim", "", IdentityTokenRejected),
        (Sts, 403, "AccessDenied", "Not authorized", AssumeRoleDenied),
        (Sts, 403, "RegionDisabledException", "", RegionDisabled),
        (Sts, 400, "MalformedPolicyDocument", "", ExchangeRejected),
        (Sts, 400, "PackedPolicyTooLarge", "", ExchangeRejected),
        (Sts, 400, "ValidationError", "", ExchangeRejected),
        (Sts, 400, "Throttling", "Rate exceeded", ExchangeThrottled),
        (Sts, 429, "", "", ExchangeThrottled),
        (Sts, 503, "ServiceUnavailable", "", ExchangeUnreachable),
        (Sts, 500, "InternalFailure", "", ExchangeUnreachable),
        (Sts, 408, "", "", ExchangeUnreachable),
        (Sts, 404, "", "", ExchangeUnreadable),
        (Ecr, 400, "AccessDeniedException", "", EcrDenied),
        (Ecr, 400, "InvalidParameterException", "", ExchangeRejected),
        (
            Ecr,
            400,
            "UnrecognizedClientException",
            "",
            ExchangeRejected,
        ),
        (Ecr, 400, "ExpiredTokenException", "", ExchangeRejected),
        (Ecr, 400, "InvalidSignatureException", "", ExchangeRejected),
        (Ecr, 400, "ThrottlingException", "", ExchangeThrottled),
        (Ecr, 500, "ServerException", "", ExchangeUnreachable),
        (Ecr, 403, "", "", ExchangeUnreadable),
    ] {
        let code = Some(code).filter(|code| !code.is_empty());
        let found = classify(service, status, code, message);
        assert_eq!(found, expected, "{service} {status} {code:?} {message}");
    }
}
