// Format v3 (docs/FORMAT.md): tokens and wraps under a key that was derived for one of both.
#include <cstring>

#include "key_object.h"
#include "keys.h"
#include "tokens.h"
#include "wraps.h"
#include "xaes.h"

namespace keystore {
namespace {

class V3Key {
 public:
  bool Begin(Core* core, const uint8_t* key) { return xaes_.Begin(core->ecb(), key); }

  // `sealed` is `nonce[24] || plaintext || tag[16] || commitment[32]`, the plaintext to be encrypted in place.
  Outcome Seal(Core* core, const uint8_t* nonce, Bytes aad, uint8_t* sealed, size_t length) {
    std::memcpy(sealed, nonce, kXaesNonceBytes);
    uint8_t* const text = sealed + kXaesNonceBytes;
    return xaes_.Seal(core->sealing, sealed, aad, text, length, text + length, text + length + kGcmTagBytes);
  }

  Outcome Open(Core* core, Bytes aad, uint8_t* sealed, size_t length) {
    uint8_t* const text = sealed + kXaesNonceBytes;
    return xaes_.Open(core->opening, sealed, aad, text, length, text + length, text + length + kGcmTagBytes);
  }

 private:
  XaesKey xaes_;
};

using Object = KeyObject<V3Key>;

// `sealToken(version, plaintext, aad)`
napi_value SealV3Token(napi_env env, napi_callback_info info) {
  Call<3> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  if (self == nullptr) return nullptr;
  uint32_t version = 0;
  if (napi_get_value_uint32(env, call.arguments[0], &version) != napi_ok || version < 1 || version > kMaxVersion) {
    ThrowType(env, "version must be a whole number from 1 to 2147483647");
    return nullptr;
  }
  const uint8_t* const nonce = self->core->TakeNonce(env, kXaesNonceBytes);
  Bytes aad;
  if (nonce == nullptr || !self->AadOf(env, call.arguments[2], &aad)) return nullptr;
  return SealToken(env, self->core, kV3Layout, call.arguments[1], [&](uint8_t* bytes, size_t length) {
    PutVersion(version, bytes);
    return self->key.Seal(self->core, nonce, aad, bytes + kVersionBytes, length);
  });
}

napi_value OpenV3Token(napi_env env, napi_callback_info info, As as) {
  Call<3> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  Bytes aad;
  if (self == nullptr || !self->AadOf(env, call.arguments[2], &aad)) return nullptr;
  return OpenToken(env, self->core, kV3Layout, call.arguments[0], call.arguments[1], as, [&](uint8_t* bytes, size_t length) {
    return self->key.Open(self->core, aad, bytes + kVersionBytes, length);
  });
}

// `openToken(token, ticket, aad)`
napi_value OpenV3TokenBytes(napi_env env, napi_callback_info info) { return OpenV3Token(env, info, As::kBytes); }
// `openTokenText(token, ticket, aad)`
napi_value OpenV3TokenText(napi_env env, napi_callback_info info) { return OpenV3Token(env, info, As::kText); }

// `0x03 || nonce[24] || ciphertext[32] || tag[16] || commitment[32]`
constexpr uint8_t kWrapHeader = 3;
constexpr size_t kWrapFront = 1 + kXaesNonceBytes;
constexpr size_t kWrapOverhead = kWrapFront + kGcmTagBytes + kCommitmentBytes;

// `wrap(key, aad)`
napi_value WrapV3(napi_env env, napi_callback_info info) {
  Call<2> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  if (self == nullptr) return nullptr;
  const uint8_t* const nonce = self->core->TakeNonce(env, kXaesNonceBytes);
  Bytes aad;
  if (nonce == nullptr || !BytesOf(env, call.arguments[1], "aad", &aad)) return nullptr;
  return WrapKey<kWrapFront, kWrapOverhead>(env, call.arguments[0], [&](uint8_t* bytes, size_t length) {
    bytes[0] = kWrapHeader;
    return self->key.Seal(self->core, nonce, aad, bytes + 1, length);
  });
}

// `unwrap(wrapped, aad)`: 32 bytes, or null
napi_value UnwrapV3(napi_env env, napi_callback_info info) {
  Call<2> call;
  if (!call.Read(env, info)) return nullptr;
  Object* const self = Object::Of(env, call.self);
  Bytes aad;
  if (self == nullptr || !BytesOf(env, call.arguments[1], "aad", &aad)) return nullptr;
  return UnwrapKey<kWrapFront, kWrapOverhead>(env, call.arguments[0], [&](uint8_t* bytes, size_t length) {
    return bytes[0] == kWrapHeader ? self->key.Open(self->core, aad, bytes + 1, length) : Outcome::kRefused;
  });
}

}  // namespace

napi_value DefineV3Key(napi_env env, Core* core) {
  const napi_property_descriptor methods[] = {
      {"sealToken", nullptr, SealV3Token, nullptr, nullptr, nullptr, napi_default_method, core},
      {"openToken", nullptr, OpenV3TokenBytes, nullptr, nullptr, nullptr, napi_default_method, core},
      {"openTokenText", nullptr, OpenV3TokenText, nullptr, nullptr, nullptr, napi_default_method, core},
      {"wrap", nullptr, WrapV3, nullptr, nullptr, nullptr, napi_default_method, core},
      {"unwrap", nullptr, UnwrapV3, nullptr, nullptr, nullptr, napi_default_method, core},
  };
  napi_value made = nullptr;
  if (napi_define_class(env, "V3Key", NAPI_AUTO_LENGTH, Object::Construct, core, sizeof(methods) / sizeof(*methods),
                        methods, &made) != napi_ok)
    Throw(env, "the class V3Key cannot be made");
  return made;
}

}  // namespace keystore
