{
  # 'address' or 'undefined' for a build with that sanitizer, and 1 for the loops of bench/: `node-gyp rebuild -- -Dkeystore_limit=1`
  'variables': {
    'keystore_sanitizer%': '',
    'keystore_limit%': 0,
  },
  'targets': [
    {
      'target_name': 'keystore_native',
      'sources': [
        'src/addon.cc',
        'src/base64.cc',
        'src/ciphers.cc',
        'src/core.cc',
        'src/nonces.cc',
        'src/token.cc',
        'src/utf8.cc',
        'src/v2_key.cc',
        'src/v3_key.cc',
        'src/values.cc',
        'src/xaes.cc',
      ],
      # OpenSSL is that of Node, which exports it: what is deprecated since 3.0 must not be used.
      'defines': ['NAPI_VERSION=8', 'OPENSSL_API_COMPAT=0x30000000L', 'OPENSSL_NO_DEPRECATED'],
      'cflags_cc!': ['-std=gnu++14', '-std=gnu++17', '-std=gnu++20', '-fexceptions'],
      'cflags_cc': [
        '-std=c++17', '-fno-exceptions', '-fno-rtti', '-fvisibility=hidden',
        '-Wall', '-Wextra', '-Wpedantic', '-Wconversion', '-Wshadow',
      ],
      'xcode_settings': {
        'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
        'GCC_ENABLE_CPP_EXCEPTIONS': 'NO',
        'GCC_ENABLE_CPP_RTTI': 'NO',
        'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
        'MACOSX_DEPLOYMENT_TARGET': '11.0',
        'OTHER_CPLUSPLUSFLAGS': ['-fstack-protector-strong'],
      },
      'msvs_settings': {
        'VCCLCompilerTool': {
          'AdditionalOptions': ['/std:c++17', '/guard:cf', '/W4'],
          'ExceptionHandling': 0,
          'BufferSecurityCheck': 'true',
        },
        'VCLinkerTool': { 'AdditionalOptions': ['/guard:cf', '/DYNAMICBASE', '/NXCOMPAT'] },
      },
      'conditions': [
        ['OS=="linux"', {
          'cflags_cc': ['-fstack-protector-strong', '-fstack-clash-protection', '-fPIC'],
          # -z now: where the process does not export OpenSSL, the addon fails to load, instead of at its first call.
          'ldflags': ['-Wl,-z,relro,-z,now', '-Wl,-z,noexecstack'],
        }],
        ['keystore_limit==1', { 'defines': ['KEYSTORE_LIMIT'], 'sources': ['src/limit.cc'] }],
        ['keystore_sanitizer!=""', {
          'cflags_cc': ['-fsanitize=<(keystore_sanitizer)', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer', '-g'],
          'ldflags': ['-fsanitize=<(keystore_sanitizer)'],
        }, 'OS=="linux"', {
          # Beside a sanitizer it does nothing but warn.
          'cflags_cc': ['-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=2'],
        }],
      ],
    },
  ],
}
