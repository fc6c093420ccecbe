"""
The names of Ignition's scripting functions: those of versions 7.9, 8.1 and 8.3 together.

They tell a function that Headgate lacks from a name that nobody has.
"""

from __future__ import annotations

__all__ = ["FUNCTIONS"]

_NAMES = {
    "alarm": """
        acknowledge cancel createRoster getRosters getShelvedPaths listPipelines queryJournal
        queryStatus shelve unshelve
    """,
    "bacnet": """
        readRaw readRawMultiple synchronizeTime synchronizeTimeUtc writeRaw writeRawMultiple
        writeWithPriority
    """,
    "bacnet.enumerated": """
        ObjectType PropertyIdentifier
    """,
    "bacnet.enums": """
        DayOfWeek MaxApduLength MaxSegments Month
    """,
    "config": """
        copy create delete getActiveMode getModes getResource getResourceTypes getResources move
        rename replace
    """,
    "dataset": """
        addColumn addRow addRows appendDataset clearDataset dataSetToExcel dataSetToHTML deleteRow
        deleteRows exportCSV exportExcel exportHTML filterColumns formatDates fromCSV
        getColumnHeaders setValue sort toCSV toDataSet toExcel toPyDataSet updateRow
    """,
    "date": """
        addDays addHours addMillis addMinutes addMonths addSeconds addWeeks addYears daysBetween
        format fromMillis getAMorPM getDate getDayOfMonth getDayOfWeek getDayOfYear getHour12
        getHour24 getMillis getMinute getMonth getQuarter getSecond getTimezone getTimezoneOffset
        getTimezoneRawOffset getYear hoursBetween isAfter isBefore isBetween isDaylightTime
        midnight millisBetween minutesBetween monthsBetween now parse secondsBetween setTime
        toMillis weeksBetween yearsBetween
    """,
    "db": """
        addDatasource beginNamedQueryTransaction beginTransaction clearAllNamedQueryCaches
        clearNamedQueryCache clearQueryCache closeTransaction commitTransaction createSProcCall
        dateFormat execQuery execSProcCall execScalar execUpdate execUpdateAsync getConnectionInfo
        getConnections refresh removeDatasource rollbackTransaction runNamedQuery runPrepQuery
        runPrepUpdate runQuery runSFNamedQuery runSFPrepUpdate runSFUpdateQuery runScalarPrepQuery
        runScalarQuery runUpdateQuery setDatasourceConnectURL setDatasourceEnabled
        setDatasourceMaxConnections
    """,
    "device": """
        addDevice getDeviceHostname listDevices refreshBrowse removeDevice restart
        setDeviceEnabled setDeviceHostname
    """,
    "dnp": """
        demandPoll directOperateAnalog directOperateBinary freezeAnalogs freezeAtTimeAnalogs
        freezeAtTimeCounters freezeClearAnalogs freezeClearCounters freezeCounters
        selectOperateAnalog selectOperateBinary synchronizeTime
    """,
    "dnp3": """
        directOperateAnalog directOperateBinary freezeAnalogs freezeAnalogsAtTime freezeCounters
        freezeCountersAtTime selectOperateAnalog selectOperateBinary
    """,
    "eam": """
        getGroups queryAgentHistory queryAgentStatus runTask
    """,
    "eventstream": """
        getDiagnostics listEventStreams publishEvent
    """,
    "file": """
        fileExists getTempFile openFile openFiles readFileAsBytes readFileAsString saveFile
        writeFile
    """,
    "groups": """
        loadFromFile removeGroups
    """,
    "gui": """
        chooseColor closeDesktop color confirm convertPointToScreen createPopupMenu desktop
        errorBox findWindow getCurrentDesktop getDesktopHandles getOpenedWindowNames
        getOpenedWindows getParentWindow getQuality getScreenIndex getScreens getSibling getWindow
        getWindowNames inputBox isTouchscreenModeEnabled messageBox openDesktop openDiagnostics
        passwordBox setScreenIndex setTouchscreenModeEnabled showNumericKeypad
        showTouchscreenKeyboard transform warningBox
    """,
    "historian": """
        browse deleteAnnotations queryAggregatedPoints queryAnnotations queryMetadata
        queryRawPoints storeAnnotations storeDataPoints storeMetadata updateRegisteredNodePath
    """,
    "historian.types": """
        annotationPoint dataPoint metadataPoint
    """,
    "iec61850": """
        cancel getControlParams listFiles operate readFile select writeFile
    """,
    "kafka": """
        listConnectorInfo listTopicPartitions listTopics pollPartition pollTopic seekLatest
        sendRecord sendRecordAsync
    """,
    "math": """
        geometricMean kurtosis max mean meanDifference median min mode normalize percentile
        populationVariance product skewness standardDeviation sum sumDifference sumLog sumSquares
        variance
    """,
    "mongodb": """
        aggregate deleteMany deleteOne find findOne insertMany insertOne listCollectionNames
        listConnectorInfo replaceOne updateMany updateOne
    """,
    "mongodb.types": """
        Binary Code CodeWScope CodeWithScope Decimal128 MaxKey MinKey ObjectId Symbol Timestamp
    """,
    "nav": """
        centerWindow closeParentWindow closeWindow desktop getCurrentWindow goBack goForward
        goHome openWindow openWindowInstance swapTo swapWindow
    """,
    "net": """
        getExternalIpAddress getHostName getIpAddress getRemoteServers httpClient httpDelete
        httpGet httpPost httpPut openURL sendEmail
    """,
    "opc": """
        browse browseServer browseSimple getServerState getServers isServerEnabled readValue
        readValues setServerEnabled writeValue writeValues
    """,
    "opchda": """
        browse getAggregates getAttributes getServers insert insertReplace isServerAvailable
        readAttributes readProcessed readRaw replace
    """,
    "opcua": """
        addConnection callMethod removeConnection
    """,
    "perspective": """
        alterDock alterLogging authenticationChallenge closeDock closePage closePopup closeSession
        download getProjectInfo getSessionInfo isAuthorized login logout navigate navigateBack
        navigateForward openDock openPopup print refresh sendMessage setTheme toggleDock
        togglePopup vibrateDevice
    """,
    "perspective.workstation": """
        exit toKiosk toWindowed
    """,
    "print": """
        createImage createPrintJob getDefaultPrinterName getPrinterNames printToImage
    """,
    "project": """
        getProjectName getProjectNames requestScan
    """,
    "report": """
        executeAndDistribute executeReport getReportNamesAsDataset getReportNamesAsList
    """,
    "roster": """
        addUsers createRoster deleteRoster getRoster getRosterNames getRosters getUsers
        removeUsers
    """,
    "secrets": """
        createEmbeddedSecretConfig createReferencedSecretConfig decrypt encrypt getProviders
        getSecrets readConfiguredSecretValue readSecretValue
    """,
    "secsgem": """
        copyEquipment deleteToolProgram enableDisableEquipment getResponse getToolProgram
        getToolProgramDataset sendRequest sendResponse startSimEventRun toDataSet toTreeDataSet
    """,
    "security": """
        getRoles getUserRoles getUsername isScreenLocked lockScreen logout switchUser unlockScreen
        validateUser
    """,
    "serial": """
        closeSerialPort configureSerialPort openSerialPort port readBytes readBytesAsString
        readLine readUntil sendBreak write writeBytes
    """,
    "sfc": """
        cancelChart getRunningCharts getVariables pauseChart redundantCheckpoint resumeChart
        setVariable setVariables startChart
    """,
    "tag": """
        addTag browse browseConfiguration browseHistoricalTags browseTags browseTagsSimple
        configure copy deleteAnnotations deleteTags editAlarmConfig editTag editTags exists
        exportTags getAlarmStates getConfiguration importTags isOverlaysEnabled loadFromFile move
        query queryAnnotations queryTagCalculations queryTagDensity queryTagHistory read readAll
        readAsync readBlocking removeTag removeTags rename requestGroupExecution restartProvider
        scan setOverlaysEnabled storeAnnotations storeTagHistory write writeAll
        writeAllSynchronous writeAsync writeBlocking writeSynchronous
    """,
    "twilio": """
        getAccounts getAccountsDataset getActiveCall getPhoneNumbers getPhoneNumbersDataset
        sendFreeformWhatsApp sendPhoneCall sendSms sendWhatsAppTemplate
    """,
    "user": """
        addCompositeSchedule addHoliday addRole addSchedule addUser createScheduleAdjustment
        editHoliday editRole editSchedule editUser getHoliday getHolidayNames getHolidays
        getNewUser getRoles getSchedule getScheduleNames getScheduledUsers getSchedules getUser
        getUserSources getUsers isUserScheduled removeHoliday removeRole removeSchedule removeUser
    """,
    "util": """
        audit beep execute exit getAvailableLocales getAvailableTerms getClientId
        getConnectTimeout getConnectionMode getEdition getGatewayAddress getGatewayStatus
        getGlobals getInactivitySeconds getLocale getLogger getModules getProjectName getProperty
        getReadTimeout getSessionInfo getSystemFlags getVersion invokeAsynchronous invokeLater
        jsonDecode jsonEncode modifyTranslation playSoundClip queryAuditLog retarget sendMessage
        sendRequest sendRequestAsync setConnectTimeout setConnectionMode setLocale setLoggingLevel
        setReadTimeout threadDump translate
    """,
    "vision": """
        beep centerWindow closeDesktop closeParentWindow closeWindow color createImage
        createPopupMenu createPrintJob desktop exit exportCSV exportExcel exportHTML findWindow
        getAvailableLocales getAvailableTerms getClientId getConnectTimeout getConnectionMode
        getCurrentDesktop getCurrentWindow getDesktopHandles getEdition getExternalIpAddress
        getGatewayAddress getInactivitySeconds getKeyboardLayouts getLocale getOpenedWindowNames
        getOpenedWindows getParentWindow getReadTimeout getRoles getScreenIndex getScreens
        getSibling getSystemFlags getUsername getWindow getWindowNames goBack goForward goHome
        invokeLater isOverlaysEnabled isScreenLocked isTouchscreenMode lockScreen logout
        openDesktop openFile openFiles openURL openWindow openWindowInstance playSoundClip
        printToImage refreshBinding retarget saveFile setConnectTimeout setConnectionMode
        setLocale setOverlaysEnabled setReadTimeout setScreenIndex setTouchscreenMode
        showColorInput showConfirm showDiagnostics showError showInput showMessage
        showNumericKeypad showPasswordInput showTouchscreenKeyboard showWarning swapTo swapWindow
        switchUser transform unlockScreen updateProject
    """,
}

FUNCTIONS = {module: frozenset(names.split()) for module, names in _NAMES.items()}
"""The functions of each module, both named without the leading ``system.``."""
