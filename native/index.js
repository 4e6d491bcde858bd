// The addon: of prebuilds/ for this platform, or of build/, where it was compiled at the installation.
require('./complete.js').assertComplete(require('node-gyp-build').path(__dirname))
// Tools that gather an application's files know this form of the call.
module.exports = require('node-gyp-build')(__dirname)
