// For bench/: tokens of v3 in a loop of C++, without a call of JavaScript's for each. Not in the published package.
#pragma once
#include <node_api.h>

namespace keystore {

// `limit(operation, characters, times)`: seals ('seal') or opens ('open') an ASCII text of so many characters.
napi_value Limit(napi_env env, napi_callback_info info);

}  // namespace keystore
