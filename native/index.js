// The addon: of prebuilds/ for this platform, or of build/, where it was compiled at the installation.
module.exports = require('node-gyp-build')(__dirname)
